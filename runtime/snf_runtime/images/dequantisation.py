"""Reproducible uniform dequantisation noise, computed from the image and the weights of the model."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


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
