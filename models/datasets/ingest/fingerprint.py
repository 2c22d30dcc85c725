"""What an image looks like, once: size, mode, colour, a digest of its pixels and a hash that its like shares."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.images.preprocessing import is_grey, opaque


@dataclass(frozen=True)
class Fingerprint:
    """``digest``: SHA-256 of size and pixels, grey in a colour file being grey. ``dhash``: 64 bits, see below."""

    mode: str
    width: int
    height: int
    grey: bool
    digest: bytes
    dhash: int


def fingerprint(image: Image.Image) -> Fingerprint:
    """Fingerprint at a loaded 8-bit image. Raises ``ImageError`` where something is transparent."""
    plain = opaque(image)
    grey = is_grey(plain)
    if grey:
        plain = plain.convert("L")
    content = hashlib.sha256(f"{plain.mode} {plain.width} {plain.height} ".encode())
    content.update(plain.tobytes())
    return Fingerprint(image.mode, image.width, image.height, grey, content.digest(), difference_hash(plain))


def difference_hash(image: Image.Image) -> int:
    """Return the difference hash, 64 bits: which of 9x8 pixels of the shrunken grey image are darker than the next.

    It hardly changes with size, brightness or compression.
    """
    shrunken = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(shrunken[:, :-1] < shrunken[:, 1:]).tobytes(), "big")
