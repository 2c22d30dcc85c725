"""Density of dequantised pixels: a frozen flow and the engine that runs it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import Batch, stacked
from snf_runtime.scoring.density import DensityPass, Engine, ImageDensity
from snf_runtime.scoring.evidence import (
    Evidence,
    FlowPass,
    channel_statistic_names,
    channel_statistics,
    grid_shape,
    pool,
    run_flow,
    statistic_names,
    white_levels,
    whole_image_statistics,
)
from snf_runtime.scoring.layout import DensityKind, FlowLayout


def content_noise(image: NDArray[np.uint8], weights_digest: str, draws: int = 1) -> NDArray[np.float64]:
    """Return reproducible random noise to add to the pixels of an image.

    The numbers are in [0, 1). They are equal for equal pixels and weights.

    The noise comes from a Philox generator seeded with SHA-256(weights digest, shape, pixels). Draw k does not depend
    on the number of draws.

    Args:
        image: Pixels, uint8 ``(C, H, W)``.
        weights_digest: SHA-256 of the weights, in hexadecimal.
        draws: The number of draws.

    Returns:
        The noise, float64 ``(draws, C, H, W)``.

    >>> image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    >>> bool((content_noise(image, "digest", 1) == content_noise(image, "digest", 5)[:1]).all())
    True
    """
    return content_stream(image, weights_digest).random((draws, *image.shape))


def content_stream(image: NDArray[np.uint8], weights_digest: str) -> np.random.Generator:
    """Return the generator of an image's noise, seeded by its pixels and the digest of the weights."""
    content = hashlib.sha256()
    content.update(weights_digest.encode())
    content.update(repr(tuple(image.shape)).encode())
    content.update(np.ascontiguousarray(image).tobytes())
    seed = content.digest()
    key, counter = int.from_bytes(seed[:16], "little"), int.from_bytes(seed[16:], "little")
    # The lower half of the counter numbers the blocks of the stream; the seed is in the upper half.
    return np.random.Generator(np.random.Philox(key=key, counter=counter << 128))


class PixelDensity(ImageDensity):
    """Density p(x + u) of pixels x, with noise u by image and weights, so that a score depends on no other image."""

    kind: DensityKind = "density"

    def __init__(self, engine: Engine, frozen: FlowLayout, weights_digest: str) -> None:
        super().__init__(engine, weights_digest, frozen.image_shape, math.prod(frozen.image_shape[1:]))
        self.engine = engine
        self.frozen = frozen
        self.dimensions = math.prod(frozen.image_shape)
        self.constant_log_det = sum(level.constant_log_det for level in frozen.levels)
        self.has_map = frozen.is_spatial
        self.grid = grid_shape(*frozen.image_shape[1:]) if frozen.is_spatial else None
        self.statistics = (*statistic_names(frozen), *channel_statistic_names(frozen))

    def passes(self, images: Batch, draws: int = 1, chunk_size: int | None = None) -> Iterator[tuple[int, FlowPass]]:
        """Run draws in groups, so that memory is bounded; yield the first draw of each and its pass."""
        start = 0
        points = _dequantised_points(stacked(images), self.weights_digest, draws)
        while chunk := list(islice(points, chunk_size or self.chunk_size)):
            yield start, run_flow(self.engine, self.frozen, np.stack(chunk))
            start += len(chunk)

    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        assert isinstance(density_pass, FlowPass)
        pixels = stacked(images)
        return Evidence(
            whole_image_statistics(pixels, density_pass),
            pool(density_pass.additive_map()),
            white_levels=white_levels(pixels),
            channels=channel_statistics(density_pass),
        )


def dequantise(images: NDArray[np.uint8], weights_digest: str) -> NDArray[np.float64]:
    """Add uniform noise in [0, 1) to images; equal images and model weights always give equal noise.

    Args:
        images: Pixels, uint8 ``(N, C, H, W)``.
        weights_digest: SHA-256 of the weights, in hexadecimal.

    Returns:
        Dequantised images, float64 ``(N, C, H, W)`` in [0, 256).
    """
    return np.stack(list(_dequantised_points(images, weights_digest, 1)))


def _dequantised_points(images: NDArray[np.uint8], weights_digest: str, draws: int) -> Iterator[NDArray[np.float64]]:
    for image in images:
        stream = content_stream(image, weights_digest)
        for _ in range(draws):
            yield image + stream.random(image.shape)
