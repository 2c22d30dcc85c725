"""Dequantisation noise that belongs to the image: the same image under the same model always gets the same draw."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def content_noise(image: NDArray[np.uint8], weights_digest: str, draws: int = 1) -> NDArray[np.float64]:
    """Return ``draws`` draws u in [0, 1) for one image ``(C, H, W)``: float64, ``(draws, C, H, W)``.

    The stream of a Philox generator seeded with SHA-256(weights digest, shape, pixels). Draw k does not depend on how
    many are asked for, so one draw and the first of many are the same.

    >>> image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    >>> bool((content_noise(image, "digest", 1) == content_noise(image, "digest", 5)[:1]).all())
    True
    """
    return content_stream(image, weights_digest).random((draws, *image.shape))


def content_stream(image: NDArray[np.uint8], weights_digest: str) -> np.random.Generator:
    """Return the generator whose stream is the noise of one image: draw after draw, ``C·H·W`` numbers each."""
    content = hashlib.sha256()
    content.update(weights_digest.encode())
    content.update(repr(tuple(image.shape)).encode())
    content.update(np.ascontiguousarray(image).tobytes())
    seed = content.digest()
    key, counter = int.from_bytes(seed[:16], "little"), int.from_bytes(seed[16:], "little")
    # The counter's low half counts blocks of the stream; the seed fills the other half.
    return np.random.Generator(np.random.Philox(key=key, counter=counter << 128))
