"""Bits per dimension against minutes of a training: ``SNF_DATA_DIR=... python -m benchmarks.learning_curve``.

A preset trains on MNIST by each optimiser, for as many steps as its budget has by the speed of the first steps. Between
steps, outside of the time, all validation images are scored with the averaged weights. The time includes the
preparation of the training: fitting the pixel transform and initialising the layers. Writes
``results/learning_curve.{json,md,png}``.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.needs import data_dir, extra
from benchmarks.speed.machine import cores, describe
from benchmarks.speed.results import machine_line
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import write_atomically
from snf_models.errors import Interrupted
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.pipeline.loop import Trainer, validation_bits_per_dim
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.frozen import freeze
from snf_models.training.config import TrainingConfig
from snf_runtime.images.batch import stacked

with extra("bench"):
    import matplotlib as mpl

    mpl.use("Agg")

    from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
GOAL, WITHIN = 1.208, 5.0
"""Bits per dimension to be reached, and within how many minutes."""
TIMED_STEPS = 10
OPTIMIZERS = ("muon", "adam")
SHARE = 0.95
"""Share of the budget that is planned for the steps."""


@dataclass(frozen=True)
class CurvePoint:
    """Bits per dimension of the validation images after a step, and the minutes until then."""

    step: int
    minutes: float
    bits_per_dim: float


def trainer_of(dataset: Dataset, preset: str, parameters: dict[str, Any], folder: Path) -> Trainer:
    """Return a training of a preset before its first step."""
    recipe = find_preset(preset)
    config: TrainingConfig = recipe.config({"validations": 1, "validation_images": 100, **parameters})
    architecture = recipe.architecture_for(dataset.image_shape, config)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    return Trainer(dataset, architecture, config, folder, lambda _event: None)


def seconds_of_a_step(dataset: Dataset, preset: str, parameters: dict[str, Any]) -> float:
    """Return the mean time of some steps, after one that does not count."""
    with tempfile.TemporaryDirectory(prefix="snf-curve-") as folder:
        trainer = trainer_of(dataset, preset, {**parameters, "max_steps": TIMED_STEPS + 2}, Path(folder))
        advance(trainer, 1)
        before = trainer.state.elapsed_seconds
        advance(trainer, TIMED_STEPS + 1)
        return (trainer.state.elapsed_seconds - before) / TIMED_STEPS


def advance(trainer: Trainer, target: int) -> None:
    """Train up to a step."""
    try:
        trainer.take_steps(lambda: trainer.state.step >= target)
    except Interrupted:
        return


def measure(
    dataset: Dataset, preset: str, parameters: dict[str, Any], minutes: float, points: int, images: int
) -> list[CurvePoint]:
    """Train for some minutes; return the curve."""
    steps = max(points, int(60 * SHARE * minutes / seconds_of_a_step(dataset, preset, parameters)))
    held_out = stacked(dataset.statistics[:images])
    curve: list[CurvePoint] = []
    with tempfile.TemporaryDirectory(prefix="snf-curve-") as folder:
        began = time.monotonic()
        trainer = trainer_of(dataset, preset, {**parameters, "max_steps": steps}, Path(folder))
        prepared = time.monotonic() - began
        for number in range(1, points + 1):
            advance(trainer, steps * number // points)
            bits = validation_bits_per_dim(freeze(trainer.averaged, dataset.image_shape), held_out)
            seconds = prepared + trainer.state.elapsed_seconds - trainer.state.validation_seconds
            curve.append(CurvePoint(trainer.state.step, seconds / 60, bits))
            print(f"step {trainer.state.step}, {seconds / 60:.2f} minutes: {bits:.4f} bits/dim", flush=True)
    return curve


def reached(curve: list[CurvePoint], goal: float = GOAL) -> float | None:
    """Return the minutes until the curve is at the goal or below; None where it does not get there.

    >>> reached([CurvePoint(1, 0.5, 1.3), CurvePoint(2, 1.0, 1.2), CurvePoint(3, 1.5, 1.1)])
    1.0
    """
    return next((point.minutes for point in curve if point.bits_per_dim <= goal), None)


def as_markdown(document: dict[str, Any], curves: dict[str, list[CurvePoint]]) -> str:
    """Return the tables for people."""
    lines = [
        "# Bits per dimension against minutes",
        "",
        f"`{document['preset']}` on MNIST from nothing, {document['images']} validation images.",
        "",
        machine_line(document["machine"]),
    ]
    for optimizer, curve in curves.items():
        minutes = reached(curve)
        found = "not reached" if minutes is None else f"reached after {minutes:.2f} minutes"
        lines += [
            "",
            f"`optimizer={optimizer}`: {GOAL} bits/dim, at most {WITHIN:g} minutes: {found}.",
            "",
            "| step | minutes | bits/dim |",
            "|---|---|---|",
            *(f"| {point.step} | {point.minutes:.2f} | {point.bits_per_dim:.4f} |" for point in curve),
        ]
    return "\n".join(lines) + "\n"


def draw(curves: dict[str, list[CurvePoint]], preset: str, path: Path) -> None:
    """Draw the curves as a PNG file."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for optimizer, curve in curves.items():
        minutes, bits = [point.minutes for point in curve], [point.bits_per_dim for point in curve]
        axes.plot(minutes, bits, marker="o", markersize=3, label=f"{preset}, {optimizer}")
    axes.axhline(GOAL, color="grey", linestyle="--", linewidth=0.9, label=f"{GOAL} bits/dim")
    axes.axvline(WITHIN, color="grey", linestyle=":", linewidth=0.9, label=f"{WITHIN:g} minutes")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("bits per dimension, validation images")
    axes.set_xlim(left=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> int:
    """Train, print, write and draw; 1 where no optimiser reaches the goal in time."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="snf-glow-small")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--minutes", type=float, default=WITHIN, help="of training (default: %(default)s)")
    parser.add_argument("--points", type=int, default=20, help="of the curve (default: %(default)s)")
    parser.add_argument("--images", type=int, default=5000, help="validation images, at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images a step (default: that of the preset)")
    parser.add_argument("--learning-rate", type=float, help="(default: that of the preset)")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset("mnist", data_dir("mnist"))
    asked = {"batch_size": arguments.batch_size, "learning_rate": arguments.learning_rate}
    parameters = {name: value for name, value in asked.items() if value is not None}
    machine = describe(arguments.threads)
    sizes = arguments.minutes, arguments.points, arguments.images
    curves = {}
    for optimizer in arguments.optimizers:
        print(f"{arguments.preset}, {optimizer}", flush=True)
        curves[optimizer] = measure(dataset, arguments.preset, {**parameters, "optimizer": optimizer}, *sizes)
    document = {
        "machine": machine,
        "preset": arguments.preset,
        "parameters": parameters,
        "images": min(arguments.images, len(dataset.statistics)),
        "minutes_to_goal": {optimizer: reached(curve) for optimizer, curve in curves.items()},
        "curves": {optimizer: [asdict(point) for point in curve] for optimizer, curve in curves.items()},
    }
    text = as_markdown(document, curves)
    write_atomically(arguments.out / "learning_curve.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(arguments.out / "learning_curve.md", text.encode())
    draw(curves, arguments.preset, arguments.out / "learning_curve.png")
    print(text)
    return int(all((reached(curve) or math.inf) > WITHIN for curve in curves.values()))


if __name__ == "__main__":
    raise SystemExit(main())
