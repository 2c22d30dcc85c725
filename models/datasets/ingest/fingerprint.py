"""The fingerprint of an image: size, mode, colour, a digest of its pixels, and a perceptual hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from snf_runtime.images.preprocessing import OpenedImage, is_grey, opaque, to_eight_bits


@dataclass(frozen=True)
class Fingerprint:
    """Size, colour mode and hashes of an image, by which exact and near duplicates are found.

    Images with equal pixel digests are duplicates, and images with similar perceptual hashes are near duplicates.

    Attributes:
        mode: The mode of the file, as Pillow names it.
        width: Pixels of a row.
        height: Pixels of a column.
        grey: Whether the pixels have no colour, whatever the mode.
        digest: SHA-256 of size and pixels; a colour file with grey pixels has the digest of the grey image.
        dhash: The difference hash, 64 bits.
    """

    mode: str
    width: int
    height: int
    grey: bool
    digest: bytes
    dhash: int


def fingerprint(opened: OpenedImage) -> Fingerprint:
    """Return the fingerprint by which duplicates of an image are found: size, colour mode, greyness and two hashes.

    The hashes are a SHA-256 of size and pixels, and a perceptual hash, which is similar for similar images.

    Raises ``ImageError`` for an image with transparent pixels.
    """
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
    """Convert a 16-bit grey image to 8 bits, scaled so that its brightest pixel is white.

    An image without values above 255 keeps its values. The result has the Pillow mode ``L``.
    """
    return to_eight_bits(image, max(256, int(np.asarray(image).max()) + 1))


def difference_hash(image: Image.Image) -> int:
    """Return a 64-bit hash of an image that hardly changes when it is resized, brightened or compressed.

    Each bit tells whether a pixel of the grey image, reduced to 9x8 pixels, is darker than its right neighbour.
    """
    shrunken = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR))
    return int.from_bytes(np.packbits(shrunken[:, :-1] < shrunken[:, 1:]).tobytes(), "big")
