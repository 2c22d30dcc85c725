"""What bfloat16 changes on trained models: ``SNF_DATA_DIR=... python -m benchmarks.speed deviation``.

For the shipped models of grey images: both precisions, each by its own calibration on the same reference images, score
the test images of the model's own dataset. Nothing is timed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.needs import builtin_dir
from benchmarks.speed.context import Context
from benchmarks.speed.pairing import Ratio, Target
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.datasets import Dataset, load_dataset
from snf_models.loading.load_flows import load_artifact
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer
from snf_models.scoring.options import EngineOptions

TITLE = "Deviation of bfloat16 scores from float32"
MODELS = ("mnist-snf-glow", "fashion-snf-glow", "cifar10-snf-glow")
IMAGES, QUICK_IMAGES = 10_000, 200
ALPHA = 0.01
AT_ONCE = 500


def measure(context: Context) -> None:
    """Measure all rows, a model after the other."""
    torch.set_num_threads(context.threads)
    for name in MODELS:
        keys = [f"deviation/{name}/{kind}" for kind in ("median", "quantile", "worst", "flips")]
        if not context.wants(*keys):
            continue
        path = ZOO / name / "1"
        trained_on = load_artifact(path).manifest.training.dataset
        dataset = load_dataset(trained_on, builtin_dir(trained_on))
        images = dataset.test[: QUICK_IMAGES if context.quick else IMAGES]
        precise, rounded = pair(path, dataset, context.threads)
        exact, exact_verdicts = scored(precise, images)
        found, verdicts = scored(rounded, images)
        distances = np.abs(found - exact)
        what = f"{name}, {len(images)} test images, |log p in bfloat16 - log p in float32|, nats"
        figures = (float(np.median(distances)), float(np.quantile(distances, 0.999)), float(distances.max()))
        flips = 100 * float((verdicts != exact_verdicts).mean())
        context.record(
            keys[0], f"{what}: median", single(figures[0]), Target(high=0.3), bias=float((found - exact).mean())
        )
        context.record(keys[1], f"{what}: 99.9th percentile", single(figures[1]), Target(high=2))
        context.record(keys[2], f"{what}: worst", single(figures[2]))
        context.record(
            keys[3],
            f"{name}, verdicts at alpha {ALPHA:.0%} that differ, %",
            single(flips),
            Target(high=0.1),
            **{"flagged, %": {"float32": 100 * float(exact_verdicts.mean()), "bfloat16": 100 * float(verdicts.mean())}},
        )


def pair(path: Path, dataset: Dataset, threads: int) -> tuple[Scorer, Scorer]:
    """Return the model in float32 with its own calibration, and in bfloat16, calibrated on the same images."""
    options = EngineOptions(threads=threads)
    artifact = load_artifact(path)
    precise = Scorer.of(artifact, options=options)
    reference = ReferenceImages(dataset.name, dataset.digest, dataset.statistics, dataset.calibration, dataset.folds)
    calibration, summary = precise.calibrate(reference, lambda *_: None, "bfloat16")
    return precise, Scorer.of(replace(artifact, calibration=calibration), summary, options)


def scored(scorer: Scorer, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the log-likelihood of each image, and whether it is flagged."""
    values: list[float] = []
    flagged: list[bool] = []
    for start in range(0, len(images), AT_ONCE):
        found = scorer.score(images[start : start + AT_ONCE])
        values += [one.log_likelihood for one in found]
        flagged += [one.is_anomaly for one in scorer.anomalies(found, ALPHA)]
    return np.array(values), np.array(flagged)


def single(value: float) -> Ratio:
    """Return a figure that one pass gives."""
    return Ratio(value, value, value, 1)
