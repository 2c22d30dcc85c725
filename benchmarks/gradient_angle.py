"""The angle between the self normalizing and the exact gradient of W in a real training run.

``SNF_DATA_DIR=... python -m benchmarks.gradient_angle [--data mnist] [--preset snf-glow-tiny] [--steps 1600]``

Keller et al. 2021, section 4: below one degree after a brief rise. Both gradients are those of the log-likelihood
alone, of the same weights and the same batch, in float64, so that the angle shows R against W^-1 and no rounding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.needs import builtin_dir, extra
from benchmarks.paper.angles import angles, exact_twin
from models.datasets import load_dataset
from models.training.loop import Trainer
from models.training.presets import PRESETS

with extra("bench"):
    import matplotlib as mpl

    mpl.use("Agg")

    from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
PIXELS = ("glow", "convolutional", "fully-connected")


def main() -> None:
    """Train, measure at intervals, print, plot and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradient_angle", description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument(
        "--preset",
        default="snf-glow-tiny",
        choices=[name for name, one in PRESETS.items() if one.linear == "self-normalizing" and one.family in PIXELS],
    )
    parser.add_argument("--steps", type=int, default=1600, help="an epoch of MNIST at batch 64 has 781")
    parser.add_argument("--every", type=int, default=20, help="steps between two measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gradient_angle.json and .png")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.data, builtin_dir(arguments.data))
    preset = PRESETS[arguments.preset]
    config = preset.config({"max_steps": arguments.steps, "seed": arguments.seed, "validations": 1})
    architecture = preset.architecture(dataset.image_shape, config.pixel_transform)
    exact = exact_twin(architecture)

    events: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(dataset, architecture, config, Path(folder), events.append)

        def measure() -> bool:
            step = trainer.state.step
            if step % arguments.every == 0 or step in (1, arguments.steps):
                found = angles(trainer.flow, exact, trainer.batches.batch(step))
                measured.append({"step": step, "degrees": found})
                print(f"step {step}: largest {max(found):.4f}, mean {sum(found) / len(found):.4f} degrees", flush=True)
            return False

        trained = trainer.run(measure)
    epoch = trainer.batches.steps_per_epoch
    late = [max(entry["degrees"]) for entry in measured if entry["step"] > epoch]
    summary = {
        "preset": arguments.preset,
        "dataset": dataset.name,
        "config": config.model_dump(),
        "steps_per_epoch": epoch,
        "validation_bits_per_dim": trained.validation_bits_per_dim,
        "max_degrees": max(max(entry["degrees"]) for entry in measured),
        "max_degrees_after_first_epoch": max(late, default=None),
        "measured": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gradient_angle.json").write_text(json.dumps(summary, indent=1) + "\n")
    plot(summary, arguments.out / "gradient_angle.png")
    print(f"largest of the run: {summary['max_degrees']:.4f} degrees")
    print(f"largest after the first epoch ({epoch} steps): {f'{max(late):.4f}' if late else 'not reached'} degrees")


def plot(summary: dict[str, Any], path: Path) -> None:
    """Draw every layer's angle over the steps."""
    figure, axes = plt.subplots(figsize=(7, 4))
    steps = [entry["step"] for entry in summary["measured"]]
    layers = list(zip(*(entry["degrees"] for entry in summary["measured"]), strict=True))
    for index, layer in enumerate(layers):
        axes.plot(steps, layer, color=plt.get_cmap("viridis")(index / max(1, len(layers) - 1)), linewidth=0.9)
    axes.axhline(1, color="firebrick", linestyle="--", linewidth=1, label="1 degree")
    if summary["steps_per_epoch"] <= steps[-1]:
        axes.axvline(summary["steps_per_epoch"], color="grey", linestyle=":", label="end of the first epoch")
    axes.set(yscale="log", xlabel="step", ylabel="degrees between the gradients of W")
    axes.set_title(f"{summary['preset']} on {summary['dataset']}: one line a layer, dark = first", fontsize=10)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
