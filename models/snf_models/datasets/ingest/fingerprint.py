from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from snf_runtime.images.preprocessing import OpenedImage, is_grey, opaque, to_eight_bits


@dataclass(frozen=True)
class Fingerprint:
    """Images with equal digests are duplicates, those with similar ``dhash`` near duplicates."""

    mode: str  # as Pillow names it
    width: int
    height: int
    grey: bool  # whether the pixels have no colour, whatever the mode
    digest: bytes  # SHA-256 of size and pixels; that of the grey image for a colour file with grey pixels
    dhash: int  # 64 bits


def fingerprint(opened: OpenedImage) -> Fingerprint:
    """Compute the fingerprint; raise ``ImageError`` for an image with transparent pixels."""
    image = opened.image
    plain = image if image.mode == "I;16" else opaque(image)
    grey = is_grey(plain, opened.format)
    if grey and plain.mode == "RGB":
        plain = plain.convert("L")
    content = hashlib.sha256(f"{plain.mode} {plain.width} {plain.height} ".encode())
    content.update(plain.tobytes())
    visible = brightened(plain) if plain.mode == "I;16" else plain
    return Fingerprint(opened.mode, image.width, image.height, grey, content.digest(), difference_hash(visible))


def brightened(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey image to 8 bits so that its brightest pixel is white, unless no value is above 255."""
    return to_eight_bits(image, max(256, int(np.asarray(image).max()) + 1))


def difference_hash(image: Image.Image) -> int:
    """Each bit says whether a pixel of the grey image at 9x8 pixels is darker than its right neighbour."""
    shrunken = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(shrunken[:, :-1] < shrunken[:, 1:]).tobytes(), "big")
