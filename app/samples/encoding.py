"""Sampled images as files: a PNG grid, an array or a zip, the same bytes for the same pixels."""

from __future__ import annotations

import io
import secrets
import zipfile

import numpy as np

from app.scoring.request_images import NPY, Pixels
from models.images.codec import encode_png, image_grid

MAX_SEED = 2**53 - 1
"""Largest seed: every JSON reader keeps it exactly."""


def draw_seed() -> int:
    """A random seed."""
    return secrets.randbelow(MAX_SEED + 1)


def encode(form: str, pixels: Pixels) -> tuple[bytes, str]:
    """Images of shape (N, C, H, W) as `png`, `npy` or `zip`: the file's content and its media type."""
    if form == "png":
        return encode_png(image_grid(pixels)), "image/png"
    buffer = io.BytesIO()
    if form == "npy":
        # The layout that scoring takes: (N, H, W) for one channel, else (N, H, W, C).
        np.save(buffer, pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1))
        return buffer.getvalue(), NPY
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for index, one in enumerate(pixels):
            # ZipInfo's fixed date keeps the bytes the same for the same seed.
            archive.writestr(zipfile.ZipInfo(f"sample-{index:03d}.png"), encode_png(one))
    return buffer.getvalue(), "application/zip"
