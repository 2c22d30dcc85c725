"""What dirty normals do to a model of them, and what leaving suspects out of training (``suspect_share``) mends.

``SNF_DATA_DIR=... python -m benchmarks.dirty_normals [--steps 1500] [--preset snf-glow-tiny] [--folder FOLDER]``

Fashion-MNIST in which 5 % of the images of every part, statistics and calibration too, are replaced: by MNIST digits,
or by Fashion images in which a square of 8x8 pixels is noise, or every pixel is noisy. Of each model, on images that no
part has seen: mean log-likelihood of clean images and of replacements, AUROC of the raw log-likelihood (low = strange)
and of the combined statistic. A run that is cut off goes on from its checkpoints in ``--folder``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, machine, parser_of, table, write_results
from benchmarks.needs import data_dir
from snf_models.datasets import Dataset, Images, load_dataset
from snf_models.datasets.dataset import digest_of
from snf_models.evaluation.metrics import separation
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer, load_model
from snf_runtime.scoring.likelihood import bits_per_dim

DIRT = 0.05
SHARES = (0.0, 0.05, 0.1)
PATCH = 8
NOISE = 60.0
PARTS = {"train": 20_000, "statistics": 2_000, "calibration": 2_000}
HELD_OUT = 2_000
BATCH = 250
THREADS = 1


def with_patch(images: Images, seed: int) -> Images:
    """Return copies of ``images`` ``(N, 1, H, W)``, a square of uniform noise somewhere in each."""
    generator = np.random.default_rng(seed)
    dirty = images.copy()
    for image in dirty:
        top, left = (int(generator.integers(0, side - PATCH + 1)) for side in image.shape[1:])
        image[:, top : top + PATCH, left : left + PATCH] = generator.integers(0, 256, (PATCH, PATCH))
    return dirty


def with_noise(images: Images, seed: int) -> Images:
    """Return copies of ``images`` under normal noise of deviation 60 in every pixel."""
    noise = np.random.default_rng(seed).normal(0, NOISE, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


class Material:
    """Clean images by part, replacements for them, and both held out."""

    def __init__(self, data_dir: Path) -> None:
        fashion, digits = load_dataset("fashion-mnist", data_dir), load_dataset("mnist", data_dir)
        self.parts = {part: np.array(getattr(fashion, part)[:count]) for part, count in PARTS.items()}
        self.digits = digits.train
        self.held_out = {
            "clean": fashion.test[:HELD_OUT],
            "digits": digits.test[:HELD_OUT],
            "patch": with_patch(fashion.test[HELD_OUT : 2 * HELD_OUT], 1),
            "noise": with_noise(fashion.test[2 * HELD_OUT : 3 * HELD_OUT], 1),
        }

    def dataset(self, kind: str) -> Dataset:
        """Return the dataset with replacements of this kind, "clean" has none; the same ones at every call."""
        generator = np.random.default_rng(0)
        parts = {}
        used = 0
        for part, images in self.parts.items():
            parts[part] = images.copy()
            chosen = generator.choice(len(images), round(DIRT * len(images)), replace=False)
            if kind == "digits":
                parts[part][chosen] = self.digits[used : used + len(chosen)]
            elif kind != "clean":
                parts[part][chosen] = (with_patch if kind == "patch" else with_noise)(images[chosen], 2 + used)
            used += len(chosen)
        name = f"fashion-mnist, {kind}"
        return Dataset(name, **parts, test=self.held_out["clean"][:1], digest=digest_of(*parts.values()))


def scores(scorer: Scorer, images: Images) -> dict[str, NDArray[np.float64]]:
    """Return log-likelihoods and the statistics of verdicts."""
    found: dict[str, list[float]] = {"log_likelihood": [], "statistic": []}
    for start in range(0, len(images), BATCH):
        likelihoods = scorer.score(images[start : start + BATCH])
        found["log_likelihood"] += [one.log_likelihood for one in likelihoods]
        found["statistic"] += [one.statistic for one in scorer.verdicts(likelihoods)]
    return {name: np.array(values) for name, values in found.items()}


def measure(material: Material, kind: str, share: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one model, or find it trained, and return its row."""
    config = find_preset(arguments.preset).config(
        {"max_steps": arguments.steps, "suspect_share": share, "validations": 10, "precision": "float32"}
    )
    folder = arguments.folder / f"{kind}-{share:g}"
    path = train(
        material.dataset(kind),
        arguments.preset,
        config,
        folder,
        observe=lambda _event: None,
        should_stop=lambda: False,
        threads=THREADS,
    )
    scorer = load_model(path)
    found = {name: scores(scorer, images) for name, images in material.held_out.items()}
    clean = found.pop("clean")
    row: dict[str, Any] = {
        "dirt": kind,
        "suspect_share": share,
        "best_step": scorer.manifest.training.best_step,
        "training_seconds": scorer.manifest.training.seconds,
        "clean": {
            "mean_log_likelihood": float(clean["log_likelihood"].mean()),
            "bits_per_dim": bits_per_dim(float(clean["log_likelihood"].mean()), scorer.density.dimensions),
        },
    }
    for name, dirty in found.items():
        row[name] = {
            "mean_log_likelihood": float(dirty["log_likelihood"].mean()),
            "auroc_low_likelihood": separation(-clean["log_likelihood"], -dirty["log_likelihood"]).auroc,
            "auroc_statistic": separation(clean["statistic"], dirty["statistic"]).auroc,
        }
    return row


def report(summary: dict[str, Any]) -> str:
    kinds = ("digits", "patch", "noise")
    heads = ["dirt", "suspect_share", "clean nats", "bits/dim", *(f"{kind} nats" for kind in kinds)]
    heads += [f"AUROC {kind}" for kind in kinds]
    rows = []
    for row in summary["rows"]:
        clean, strange = row["clean"], [row[kind] for kind in kinds]
        cells = [row["dirt"], f"{row['suspect_share']:g}"]
        cells += [f"{clean['mean_log_likelihood']:.1f}", f"{clean['bits_per_dim']:.4f}"]
        cells += [f"{one['mean_log_likelihood']:.1f}" for one in strange]
        rows.append([*cells, *(f"{one['auroc_low_likelihood']:.3f} / {one['auroc_statistic']:.3f}" for one in strange)])
    text = (
        f"Fashion-MNIST, {DIRT:.0%} of the images of every part replaced by MNIST digits (`digits`), or given a square "
        f"of {PATCH}x{PATCH} pixels of noise (`patch`), or normal noise of deviation {NOISE:g} everywhere (`noise`); "
        f"{summary['preset']}, {summary['steps']} steps, {PARTS['train']} training images. Measured on {HELD_OUT} "
        "held-out images of each kind. AUROC: clean against strange, by low raw log-likelihood / by the combined "
        "statistic. What suspects do to the rate of false alarms: rank_rates.md."
    )
    return "\n".join(["# Dirty normals", "", text, "", *table(heads, rows), ""])


def main() -> None:
    parser = parser_of("dirty_normals", __doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--preset", default="snf-glow-tiny")
    parser.add_argument("--folder", type=Path, default=Path("var/dirty_normals"), help="checkpoints and models")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of dirty_normals.json and .md")
    arguments = parser.parse_args()
    material = Material(data_dir("mnist", "fashion-mnist"))
    summary: dict[str, Any] = {"machine": machine(THREADS), "preset": arguments.preset, "steps": arguments.steps}
    summary["rows"] = []
    for kind in ("clean", "digits", "patch", "noise"):
        for share in SHARES:
            summary["rows"].append(measure(material, kind, share, arguments))
            print(json.dumps(summary["rows"][-1]), flush=True)
    write_results(arguments.out, "dirty_normals", summary, report(summary))
    print(report(summary))


if __name__ == "__main__":
    main()
