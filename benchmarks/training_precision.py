"""Trainings in bfloat16 beside the same in float32: ``SNF_DATA_DIR=... python -m benchmarks.training_precision``.

Each seed trains a preset on MNIST twice for equally many steps, with the same first weights, batches and noise. Only
the number format of the coupling networks differs. Bits per dimension are those of all validation images by the final
averaged weights, scored in the same arithmetic. ``results/training_precision.{json,md}`` is written after every
training. A training that is stopped goes on when the command is run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.needs import data_dir
from benchmarks.paper.turns import stop_signals
from benchmarks.speed.machine import cores, describe
from benchmarks.speed.results import machine_line
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import write_atomically
from snf_models.errors import Interrupted
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.pipeline.loop import Trainer, validation_bits_per_dim
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.frozen import freeze
from snf_runtime.images.batch import stacked

RESULTS = Path(__file__).parent / "results"
WORK = Path.home() / ".cache" / "snf-density" / "training_precision"
PRECISIONS = ("float32", "bfloat16")
LIMIT = 0.005
"""Most bits per dimension by which the mean over the seeds may be worse in bfloat16."""

Rows = list[dict[str, Any]]


def measure(
    dataset: Dataset, preset: str, steps: int, seed: int, precision: str, work: Path, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train once, or to the end where an earlier process began; return the row.

    Raises:
        Interrupted: ``should_stop`` returned true.
    """
    recipe = find_preset(preset)
    config = recipe.config({"max_steps": steps, "seed": seed, "precision": precision, "validations": 1})
    architecture = recipe.architecture(dataset.image_shape, config.pixel_transform)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    folder = work / f"{preset}-{steps}-{precision}-{seed}"
    trained = Trainer(dataset, architecture, config, folder, lambda _event: None).run(should_stop)
    frozen = freeze(trained.flow, dataset.image_shape)
    return {
        "seed": seed,
        "precision": precision,
        "bits_per_dim": validation_bits_per_dim(frozen, stacked(dataset.statistics)),
        "seconds": trained.elapsed_seconds - trained.validation_seconds,
    }


def differences(rows: Rows) -> dict[int, float]:
    """Return by how many bits per dimension bfloat16 is worse, by seed, where both were measured.

    >>> differences([{"seed": 1, "precision": "float32", "bits_per_dim": 1.25},
    ...              {"seed": 1, "precision": "bfloat16", "bits_per_dim": 1.5},
    ...              {"seed": 2, "precision": "float32", "bits_per_dim": 1.0}])
    {1: 0.25}
    """
    bits = {(row["seed"], row["precision"]): row["bits_per_dim"] for row in rows}
    both = [seed for seed, precision in bits if precision == "bfloat16" and (seed, "float32") in bits]
    return {seed: bits[seed, "bfloat16"] - bits[seed, "float32"] for seed in both}


def as_markdown(document: dict[str, Any]) -> str:
    """Return the table for people."""
    rows = document["rows"]
    by_key = {(row["seed"], row["precision"]): row for row in rows}
    worse = differences(rows)
    lines = [
        "# Training in bfloat16 and in float32",
        "",
        f"{document['preset']} on MNIST, {document['steps']} steps. Bits per dimension of {document['images']} "
        "validation images by the final weights.",
        "",
        machine_line(document["machine"]),
        "",
        "| seed | float32 | bfloat16 | difference |",
        "|---|---|---|---|",
    ]
    for seed in sorted({row["seed"] for row in rows}):
        pair = [by_key.get((seed, precision)) for precision in PRECISIONS]
        cells = ["" if row is None else f"{row['bits_per_dim']:.4f}" for row in pair]
        cells.append(f"{worse[seed]:+.4f}" if seed in worse else "")
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    if worse:
        met = "yes" if mean(worse.values()) <= LIMIT else "**no**"
        lines += ["", f"Mean difference of {len(worse)} seeds: {mean(worse.values()):+.4f}, at most {LIMIT}: {met}."]
    return "\n".join(lines) + "\n"


def stored(path: Path, key: dict[str, Any]) -> Rows:
    """Return the rows of earlier runs of the same trainings."""
    known = json.loads(path.read_text()) if path.exists() else {}
    return list(known["rows"]) if key.items() <= known.items() else []


def main() -> int:
    """Train, print and write; 1 where it was stopped, or where bfloat16 is worse by more than the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="snf-glow-small")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset("mnist", data_dir("mnist"))
    key = {"preset": arguments.preset, "steps": arguments.steps, "images": len(dataset.statistics)}
    key["optimizer"] = find_preset(arguments.preset).config({}).optimizer
    path = arguments.out / "training_precision.json"
    rows = stored(path, key)
    document = {"machine": describe(arguments.threads), **key, "rows": rows}
    wanted = [(seed, precision) for seed in arguments.seeds for precision in PRECISIONS]
    done = {(row["seed"], row["precision"]) for row in rows}
    with stop_signals() as should_stop:
        for seed, precision in (each for each in wanted if each not in done):
            try:
                row = measure(dataset, key["preset"], key["steps"], seed, precision, arguments.work, should_stop)
            except Interrupted as interruption:
                print(f"{interruption}; run the command again to continue")
                return 1
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())
            write_atomically(path.with_suffix(".md"), as_markdown(document).encode())
    print(as_markdown(document))
    return int(mean(differences(rows).values()) > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
