"""Computation of heat maps in groups of images, with pauses between groups for other work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.anomaly_map import of_pixels, of_places
from snf_runtime.anomaly.calibration import Calibration, MapReference
from snf_runtime.anomaly.heat_map import PixelMaps, standardise, tile_maps
from snf_runtime.images.batch import Batch, stacked
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeaturePass
from snf_runtime.steps import Steps

Array = NDArray[np.float64]
Slopes = Callable[[NDArray[np.uint8]], Array]
"""A function that returns the gradient norms at each pixel of images, ``(N, H, W)``."""


def heat_map_steps(
    density: ImageDensity,
    calibration: Calibration,
    reference: MapReference,
    images: Batch,
    slopes: Slopes | None = None,
    at_once: int | None = None,
) -> Steps[list[PixelMaps]]:
    """Compute heat maps of images in a generator that pauses between groups of images or tiles for other work.

    It yields None between groups, and returns all maps at the end.

    Args:
        density: The density of the model.
        calibration: Its calibration.
        reference: Mean and deviation of the log-likelihood at each pixel, of ``calibration``.
        images: The images.
        slopes: What adds gradient norms, for a density that has no tiles; None to add none.
        at_once: Images of a group; None for as many as the density computes at once.
    """
    if density.tiled:
        return (yield from _tiled_heat_map_steps(density, calibration, reference, images))
    at_once = at_once or density.at_once
    maps: list[PixelMaps] = []
    _, height, width = density.image_shape
    for start in range(0, len(images), at_once):
        if start:
            yield
        rows = stacked(images[start : start + at_once])
        nats: list[Array] = []
        features: list[Array] = []
        for first, density_pass in density.passes(rows):
            if density_pass is None:
                continue
            nats.append(density_pass.compared_maps())
            if calibration.has_features:
                evidence = density.evidence(rows[first : first + len(density_pass)], density_pass).features
                assert evidence is not None
                features += [of_places(places, (height, width)) for places in calibration.feature_maps(evidence)]
        joined = np.concatenate(nats)
        z = standardise(joined, reference)
        anomaly = features or of_pixels(z)
        norms = slopes(rows) if slopes is not None else [None] * len(rows)
        maps += [PixelMaps(*of_image) for of_image in zip(joined, z, anomaly, norms, strict=True)]
    return maps


def _tiled_heat_map_steps(
    density: ImageDensity, calibration: Calibration, reference: MapReference, images: Batch
) -> Steps[list[PixelMaps]]:
    maps: list[PixelMaps] = []
    for _, density_pass in density.passes(images):
        if isinstance(density_pass, FeaturePass):
            maps += tile_maps(density_pass, reference, calibration.feature_maps(density_pass.evidence()))
        if len(maps) < len(images):
            yield
    return maps
