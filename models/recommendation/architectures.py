from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models.datasets import DatasetSummary
from models.errors import DatasetUnfit
from models.flows.architecture import FeatureArchitecture, HybridArchitecture, PixelArchitecture
from models.recommendation.record import PRESET_OF, RecommendParameters
from models.training.cost.estimate import estimate_training
from models.training.presets import find_preset

MIN_STEPS = 100
"""Optimiser steps that a pixel flow must be able to take; it learns little in fewer."""
MIN_BATCH = 8
MAX_BYTES = 2_500_000_000
"""Memory of the training of the pixel flow, at most; batches have fewer images where it would be more."""
VALIDATION_IMAGES = 64
SIDE_STEP, MIN_SIDE = 16, 32
"""Sides of images that are made smaller for the pixel flow: multiples of the one, at least the other."""


def feature_architecture(
    shape: tuple[int, int, int], parameters: RecommendParameters, backbones: Path | None
) -> FeatureArchitecture:
    """Return the architecture of flows over features; raise ``DatasetUnfit``, ``BackboneMissing``."""
    preset = find_preset(PRESET_OF["features"])
    config = preset.config({"backbone": parameters.backbone, "feature_side": parameters.feature_side})
    architecture = preset.architecture_for(shape, config, backbones)
    assert isinstance(architecture, FeatureArchitecture)
    return architecture


def pixel_architecture(shape: tuple[int, int, int], train: int, minutes: float) -> tuple[PixelArchitecture, int]:
    """Choose a size of images and of batches that fit into memory and budget; raise ``DatasetUnfit``."""
    problem = None
    for smaller in _shapes(shape):
        try:
            return _fitting_architecture(smaller, train, minutes)
        except DatasetUnfit as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _shapes(shape: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield the shape of images and smaller ones, by eighths, with sides that a flow can halve several times."""
    yield shape
    for eighths in range(7, 0, -1):
        height, width = (round(side * eighths / 8 / SIDE_STEP) * SIDE_STEP for side in shape[1:])
        if min(height, width) >= MIN_SIDE and max(height, width) < max(shape[1:]):
            yield shape[0], height, width


def _fitting_architecture(shape: tuple[int, int, int], train: int, minutes: float) -> tuple[PixelArchitecture, int]:
    preset = find_preset(PRESET_OF["pixels"])
    summary = DatasetSummary(shape, train, VALIDATION_IMAGES, 0, 0)
    batch = preset.config({}).batch_size
    while True:
        config = preset.config({"max_steps": MIN_STEPS, "batch_size": batch})
        architecture = preset.architecture_for(shape, config)
        assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
        expected = estimate_training(architecture, config, summary)
        if expected.memory_bytes <= MAX_BYTES or batch <= MIN_BATCH:
            break
        batch //= 2
    size = f"images of {shape[1]}x{shape[2]}"
    if expected.memory_bytes > MAX_BYTES:
        raise DatasetUnfit(
            f"{preset.name} on {size} is expected to need {expected.memory_bytes / 1e9:.1f} GB of memory, expected at "
            f"most {MAX_BYTES / 1e9:.1f} GB in a comparison: set a smaller image_size"
        )
    if expected.training_seconds > 60 * minutes:
        raise DatasetUnfit(
            f"{MIN_STEPS} steps of {preset.name} on {size} are expected to take {expected.training_seconds / 60:.1f} "
            f"minutes, the whole budget is {minutes:g}: set more minutes or a smaller image_size"
        )
    return architecture, batch
