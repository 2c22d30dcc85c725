"""Compares the pixel transforms at equal training: the same preset, seed, steps and images.

    SNF_DATA_DIR=... python -m benchmarks.pixel_transforms [--steps 400] [--threads 1]

Prints and writes the validation bits/dim of each transform on MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.needs import data_dir
from snf_models.datasets import Dataset, load_dataset
from snf_models.flows.architecture import PixelTransform
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import PRESETS
from snf_models.training.config import TrainingConfig

DATASETS = ("mnist", "fashion-mnist")
RESULT = Path(__file__).parent / "results" / "pixel_transforms.json"


def validation_bits(
    dataset: Dataset, transform: Literal["affine", "logit", "marginal"], preset: str, steps: int
) -> float:
    """Train from scratch and return the best validation bits/dim."""
    config = TrainingConfig(max_steps=steps, pixel_transform=transform, validations=1)
    architecture = PRESETS[preset].architecture(dataset.image_shape, transform)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(dataset, architecture, config, Path(folder), observe=lambda _: None)
        return trainer.run(should_stop=lambda: False).validation_bits_per_dim


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixel_transforms")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--preset", default="snf-glow-small", choices=sorted(PRESETS))
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    folder = data_dir(*DATASETS)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transforms: tuple[PixelTransform, ...] = get_args(PixelTransform)
    rows = {}
    for name in DATASETS:
        dataset = load_dataset(name, folder)
        rows[name] = {t: validation_bits(dataset, t, arguments.preset, arguments.steps) for t in transforms}
        Console(stderr=True).print(name, rows[name])
    table = Table(title=f"validation bits/dim after {arguments.steps} steps of {arguments.preset}")
    table.add_column("data set")
    for transform in transforms:
        table.add_column(transform, justify="right")
    for name, bits in rows.items():
        table.add_row(name, *(f"{bits[transform]:.4f}" for transform in transforms))
    Console().print(table)
    document = {"preset": arguments.preset, "steps": arguments.steps, "validation_bits_per_dim": rows}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
