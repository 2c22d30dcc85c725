"""Models before the gate to ``live``: untrained, diverged, hardly and well trained ones, and what became live.

``python -m benchmarks.gate [--default-budget | --steps N] [--presets snf-glow-tiny ...] [--work FOLDER]``

Each model is trained on ``mnist-mini`` by the code of ``snf train`` and published under a name of its own. A row has
the figures of its checks beside their limits, the reasons why it is unfit, and what its plain name answers. Models of
features need ``snf backbones add efficientnet-lite0``; they have no steps, so they are fitted to 20 images and to all.
``--default-budget`` trains in the default budget of each preset instead, which takes hours, and adds its rows;
``--steps`` does so for a number of steps. With ``--work``, an interrupted training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import cores, describe
from snf_app.http.errors import problem_of
from snf_models.artifacts.manifest import Measure, read_manifest
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import write_atomically
from snf_models.errors import ModelsError
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.registry.registry import Registry

RESULTS = Path(__file__).parent / "results"
PRESETS = ("snf-glow-tiny", "snf-fc-2l", "snf-features")
ALL_PRESETS = (*PRESETS, "snf-glow-small")
"""Presets that are measured by default, and all that can be asked for."""
FEW_IMAGES = 20
STEEP = {
    "max_steps": 50,
    "validations": 2,
    "batch_size": 16,
    "warmup_steps": 120,
    "final_learning_rate": 1.0,
    "ema_decay": 0.0,
}
"""A learning rate that rises to the end of the training; the value itself is that of the preset in ``HARMFUL``."""
HARMFUL = {"snf-glow-tiny": 1.0, "snf-fc-2l": 0.1}
STEPS = {"untrained": 1, "4 steps": 4, "60 steps": 60}
MEASURES: dict[Measure, str] = {
    "pixels": "bits/dim < independent pixels",
    "features": "nats a value > one Gaussian",
    "validation": "last <= first validation",
    "training": "overfitted: training images at the end <= first validation",
    "learned-inverse": "inverse error <= 0.5",
}


def settings_of(preset: str, default_budget: bool, steps: int | None) -> dict[str, dict[str, Any]]:
    """Return the parameters of each training of a preset, by the name of its row."""
    if default_budget:
        return {"default budget": {}}
    if steps is not None:
        return {f"{steps} steps": {"max_steps": steps}}
    if preset not in HARMFUL:
        return {f"{FEW_IMAGES} images": {}, "all images": {}}
    rows: dict[str, dict[str, Any]] = {name: {"max_steps": steps} for name, steps in STEPS.items()}
    return rows | {"diverged": STEEP | {"learning_rate": HARMFUL[preset]}}


def images_of(row: str, dataset: Dataset) -> Dataset:
    """Return the dataset of a row: fewer training images if its name says so."""
    return replace(dataset, train=dataset.train[:FEW_IMAGES]) if row == f"{FEW_IMAGES} images" else dataset


def answer_of(registry: Registry, name: str) -> str:
    """Return what the plain name of a model means: the version, or the HTTP answer without a live one."""
    try:
        return f"version {registry.resolve(name).version}"
    except ModelsError as error:
        return f"{problem_of(error).status} {error.slug}"


def measure(preset: str, row: str, parameters: dict[str, Any], registry: Registry, folder: Path) -> dict[str, Any]:
    """Train and publish a model; return its figures, and what became of it."""
    config = find_preset(preset).config(parameters)
    name = f"{preset}-{row.replace(' ', '-')}"
    began = time.monotonic()
    try:
        artifact = train(
            images_of(row, load_dataset("mnist-mini", None)),
            preset,
            config,
            folder / name,
            observe=lambda _event: None,
            should_stop=lambda: False,
        )
    except ModelsError as error:
        return {"preset": preset, "row": row, "failed": f"{error.slug}: {error.detail}"}
    fitness = read_manifest(artifact).fitness
    assert fitness is not None
    registry.publish(artifact, name)
    return {
        "preset": preset,
        "row": row,
        "seconds": time.monotonic() - began,
        "checks": {check.measure: {"found": check.found, "limit": check.limit} for check in fitness.checks},
        "unfit": [{"code": check.code, "detail": check.sentence} for check in fitness.failed],
        "name_answers": answer_of(registry, name),
        "number_answers": f"version {registry.resolve(f'{name}:1').version}",
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table for people."""
    head = ["preset", "training", *MEASURES.values(), "unfit", "`name`", "`name:1`"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["preset"], row["row"]]
        if "failed" in row:
            cells += ["", "", "", "", f"no model, {row['failed']}", "", ""]
        else:
            for key in MEASURES:
                check = row["checks"].get(key)
                figures = () if check is None else (check["found"], check["limit"])
                cells.append(" / ".join("not finite" if figure is None else f"{figure:.5g}" for figure in figures))
            codes = ", ".join(reason["code"] for reason in row["unfit"])
            cells += [codes or "fit", row["name_answers"], row["number_answers"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def stored(path: Path) -> list[dict[str, Any]]:
    """Return the rows of earlier runs."""
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def main() -> None:
    """Train, print and write ``results/gate.{json,md}``; rows of earlier runs stay unless they are measured again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--default-budget", action="store_true", help="only models in their default budgets: hours")
    only.add_argument("--steps", type=int, metavar="N", help="only models of pixels after N steps")
    parser.add_argument("--presets", nargs="+", choices=ALL_PRESETS, default=PRESETS)
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where trainings are kept; default: nowhere")
    arguments = parser.parse_args()
    rows = {(row["preset"], row["row"]): row for row in stored(RESULTS / "gate.json")}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder, "registry"))
        for preset in arguments.presets:
            for name, parameters in settings_of(preset, arguments.default_budget, arguments.steps).items():
                runs = arguments.work or Path(folder, "runs")
                rows[preset, name] = measure(preset, name, parameters, registry, runs)
                print(json.dumps(rows[preset, name]), flush=True)
    ordered = sorted(rows.values(), key=lambda row: ALL_PRESETS.index(row["preset"]))
    document = {"machine": describe(cores()), "dataset": "mnist-mini", "rows": ordered}
    write_atomically(RESULTS / "gate.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(RESULTS / "gate.md", as_markdown(ordered).encode())
    print(as_markdown(ordered))


if __name__ == "__main__":
    main()
