"""Whether a trained model is good enough to be served."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from snf_models.artifacts.manifest import MAX_INVERSE_ERROR, FitnessCheck, FitnessRecord, Measure
from snf_models.datasets import Dataset
from snf_models.scoring.engines.torch_engine import TorchEngine
from snf_models.scoring.flow_density import FlowDensity, pixels_of
from snf_models.training.fit_feature_flows import FittedFeatures
from snf_models.training.trained_flow import TrainedFlow
from snf_runtime.images.batch import stacked
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.flow_pass import run_flow
from snf_runtime.scoring.likelihood import bits_per_dim, score_images
from snf_runtime.scoring.pixel_density import dequantise

INVERTED_IMAGES = 100
"""Most held-out images on which the learned inverse is measured."""
BATCH = 50

Report = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the images done, and all images of the part."""


def measure_fitness(
    density: ImageDensity,
    dataset: Dataset,
    statistics_log_likelihood: float,
    suspect_share: float,
    report: Report,
    *,
    pixels: TrainedFlow | None,
    features: FittedFeatures | None,
) -> FitnessRecord:
    """Check a model against simple densities, its last validation against the first, and its learned inverse."""
    checks = []
    of_pixels = pixels_of(density)
    if pixels is not None and of_pixels is not None:
        held_out = stacked(dataset.statistics)
        bits = bits_per_dim(statistics_log_likelihood, density.dimensions)
        if suspect_share:
            scored = [
                score.log_likelihood
                for start in range(0, len(held_out), BATCH)
                for score in score_images(of_pixels, held_out[start : start + BATCH])
            ]
            bits = bits_per_dim(-_mean_of_usual(-np.array(scored), suspect_share), density.dimensions)
        independent = independent_pixels(stacked(dataset.train), held_out)
        checks.append(_check("pixels", bits, _mean_of_usual(independent, suspect_share)))
        if pixels.first_validation is not None and pixels.last_validation is not None:
            first, training = pixels.first_validation, pixels.last_training
            if training is not None and training <= first:
                checks.append(_check("training", training, first))
            else:
                checks.append(_check("validation", pixels.last_validation, first))
        if of_pixels.frozen.has_learned_inverse:
            error = learned_inverse_error(of_pixels, held_out[:INVERTED_IMAGES], report)
            checks.append(_check("learned-inverse", error, MAX_INVERSE_ERROR))
    if features is not None:
        checks.append(_check("features", -features.choices[0].held_out, -features.one_gaussian))
    return FitnessRecord(checks=tuple(checks))


def independent_pixels(train: Pixels, images: Pixels) -> NDArray[np.float64]:
    """Return bits/dim of each image, ``(M,)``, for values of probability (count(v) + 1) / (n + 256) in a channel."""
    channels = train.shape[1]
    counts = np.ones((channels, 256))
    for start in range(0, len(train), BATCH):
        # In batches, as the images may be mapped from a file that is larger than the memory.
        for channel, values in enumerate(np.moveaxis(train[start : start + BATCH], 1, 0)):
            counts[channel] += np.bincount(values.reshape(-1), minlength=256)
    bits = -np.log2(counts / counts.sum(1, keepdims=True))
    which = np.arange(channels)[:, None, None]
    return np.concatenate(
        [bits[which, images[start : start + BATCH]].mean((1, 2, 3)) for start in range(0, len(images), BATCH)]
    )


def learned_inverse_error(density: FlowDensity, images: Pixels, report: Report) -> float:
    """Return the root mean square error of pixels that the learned inverse rebuilds from latents."""
    # An engine that compiles would compile the learned inverse for this alone.
    engine, squares = TorchEngine(density.frozen), 0.0
    for start in range(0, len(images), BATCH):
        x = dequantise(images[start : start + BATCH], density.weights_digest)
        latents = run_flow(engine, density.frozen, x).latents
        back, _ = density.frozen.pixels.inverse(torch.from_numpy(engine.inverse(latents.scales, "learned")))
        squares += float(np.square(back.numpy() - x).sum())
        report("learned inverse", start + len(x), len(images))
    return math.sqrt(squares / images.size)


def _mean_of_usual(costs: NDArray[np.float64], suspect_share: float) -> float:
    """Return the mean of all costs but the given share of the largest."""
    return float(np.sort(costs)[: len(costs) - int(suspect_share * len(costs))].mean())


def _check(measure: Measure, found: float, limit: float) -> FitnessCheck:
    return FitnessCheck(measure=measure, found=found if math.isfinite(found) else None, limit=limit)
