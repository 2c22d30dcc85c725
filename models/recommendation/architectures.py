from __future__ import annotations

from pathlib import Path

from models.flows.architecture import FeatureArchitecture, HybridArchitecture, PixelArchitecture
from models.recommendation.record import PRESET_OF, RecommendParameters
from models.training.presets import find_preset

MAX_SIDE = 128
"""Largest side of images for the pixel flow in a comparison."""
BATCH = 16
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


def pixel_architecture(shape: tuple[int, int, int]) -> tuple[PixelArchitecture, int]:
    """Return the architecture for images of at most 128 pixels a side, and the batch size; raise ``DatasetUnfit``."""
    if max(shape[1:]) > MAX_SIDE:
        factor = MAX_SIDE / max(shape[1:]) / SIDE_STEP
        height, width = (max(MIN_SIDE, round(side * factor) * SIDE_STEP) for side in shape[1:])
        shape = shape[0], height, width
    preset = find_preset(PRESET_OF["pixels"])
    architecture = preset.architecture_for(shape, preset.config({}))
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    return architecture, BATCH
