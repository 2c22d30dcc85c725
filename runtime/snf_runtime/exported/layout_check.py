"""Checks of the shapes in the manifest of an exported model against each other, before a graph is opened."""

from __future__ import annotations

import math
import re

from snf_runtime.errors import ArtifactError
from snf_runtime.exported.manifest import FILE, ExportedFeatures, ExportedPixels, ExportManifest
from snf_runtime.kinds import GraphPart, Shape

OutputShape = tuple[int | None, ...]
"""Shape of an output of a graph for one image; None where the manifest does not give a side."""
MAX_INPUT, MAX_CHANNELS = 4096, 2**20
"""Largest side of the input of a backbone, and most channels of its features."""
POOLED_GROUPS = 2
DIGEST = re.compile("[0-9a-f]{64}")
MAX_STATISTIC_DIFFERENCE = 10.0
"""Largest tolerance of a statistic in nats, beside a tenth of the statistic."""


def check_layout(manifest: ExportManifest) -> None:
    """Raise ``ArtifactError`` unless the values and shapes in the manifest are valid and fit each other."""
    try:
        _check_values(manifest)
        if manifest.pixels is not None:
            _check_levels(manifest.pixels, manifest.image_shape)
            _check_outputs(manifest.pixels)
        if manifest.features is not None:
            _check_features(manifest.features, manifest)
    except ValueError as error:
        raise ArtifactError(f"the parts of {FILE} do not fit each other: {error}") from error


def pixel_outputs(pixels: ExportedPixels) -> dict[tuple[GraphPart, int], OutputShape]:
    """Return the shape for one image of each output of a graph over pixels, by kind and level, in order."""
    shapes: dict[tuple[GraphPart, int], OutputShape] = {}
    for part, number in pixels.outputs:
        level = pixels.levels[number]
        if part == "latent":
            assert level.latent_shape is not None
            shapes[part, number] = (1, *level.latent_shape)
        elif part == "reconstruction-errors":
            shapes[part, number] = (1, len(level.reconstruction_sizes))
        else:
            shapes[part, number] = (1, None, *level.size)
    return shapes


def feature_outputs(features: ExportedFeatures) -> dict[tuple[GraphPart, int], OutputShape]:
    """Return the shape for one image of each output of a graph over features, by kind and 0, in order."""
    _, rows, columns = features.layout.feature_shape
    return {("places", 0): (1, None, rows, columns), ("pooled", 0): (1, None, POOLED_GROUPS)}


def _check_values(manifest: ExportManifest) -> None:
    kind = "density" if manifest.pixels is not None else "feature_density"
    if manifest.kind != kind:
        raise ValueError(f"expected the kind {kind} of {' and '.join(manifest.parts)}, got {manifest.kind}")
    if manifest.pixels is not None and manifest.preprocessing.tiled:
        raise ValueError("expected no tiles with a flow over pixels, got fit tiles")
    if not DIGEST.fullmatch(manifest.weights_sha256):
        raise ValueError(f"expected 64 hexadecimal digits in weights_sha256, got {manifest.weights_sha256[:80]!r}")
    shape = (
        manifest.image_shape if manifest.features is None or manifest.pixels else manifest.features.layout.feature_shape
    )
    pinned = manifest.pinned
    for name, value, most in (
        ("tolerance", pinned.tolerance, 1 + math.prod(shape) / 100),
        ("statistic_tolerance", pinned.statistic_tolerance, MAX_STATISTIC_DIFFERENCE + abs(pinned.statistic) / 10),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"expected pinned/{name} to be from 0 to {most:g} nats, got {value:g}")


def _check_levels(pixels: ExportedPixels, image_shape: Shape) -> None:
    channels, height, width = image_shape
    for number, level in enumerate(pixels.levels):
        where, size = f"pixels/levels/{number}", level.size
        # A level starts with squeezes, which turn pixels into channels, and keeps its size afterwards.
        if min(size) < 1 or height % size[0] or width % size[1]:
            raise ValueError(f"expected {where}/size to divide {(height, width)}, got {size}")
        channels, (height, width) = channels * (height // size[0]) * (width // size[1]), size
        if not 0 <= level.kept <= channels:
            raise ValueError(f"expected {where}/kept to be from 0 to {channels}, got {level.kept}")
        latents = (channels - level.kept, height, width) if level.kept < channels else None
        if level.latent_shape != latents:
            raise ValueError(f"expected {where}/latent_shape to be {latents}, got {level.latent_shape}")
        channels = level.kept
    if channels:
        raise ValueError(f"expected the last of pixels/levels to keep 0 channels, got {channels}")


def _check_outputs(pixels: ExportedPixels) -> None:
    expected: set[tuple[GraphPart, int]] = set()
    for number, level in enumerate(pixels.levels):
        if level.latent_shape is not None:
            expected.add(("latent", number))
        if level.has_prior:
            expected.add(("prior-log-slopes", number))
        if level.reconstruction_sizes:
            expected.add(("reconstruction-errors", number))
    optional: set[tuple[GraphPart, int]] = {("log-slopes", number) for number in range(len(pixels.levels))}
    given = set(pixels.outputs)
    if len(given) < len(pixels.outputs):
        raise ValueError("expected each of pixels/outputs once, got one twice")
    for part, number in sorted(expected - given):
        raise ValueError(f"expected {part} of level {number} in pixels/outputs")
    for part, number in sorted(given - expected - optional):
        raise ValueError(f"expected no {part} of level {number} in pixels/outputs")


def _check_features(features: ExportedFeatures, manifest: ExportManifest) -> None:
    channels, rows, columns = features.layout.feature_shape
    if not all(1 <= side <= MAX_INPUT for side in features.input_size):
        raise ValueError(f"expected features/input_size to be from 1 to {MAX_INPUT}, got {features.input_size}")
    if not (
        1 <= channels <= MAX_CHANNELS and 1 <= rows <= features.input_size[0] and 1 <= columns <= features.input_size[1]
    ):
        raise ValueError(
            f"expected features/layout/feature_shape to have 1 to {MAX_CHANNELS} channels and at most as many places "
            f"as features/input_size has pixels, got {features.layout.feature_shape}"
        )
    side = manifest.preprocessing.height
    if manifest.preprocessing.tiled and (rows != columns or rows > side or side % (side // rows)):
        raise ValueError(
            f"expected rows and columns of places that divide tiles of {side} pixels evenly, got {rows}x{columns}"
        )
