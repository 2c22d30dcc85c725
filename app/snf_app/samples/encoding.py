from __future__ import annotations

import io
import secrets
import zipfile

import numpy as np

from snf_app.scoring.request_images import NPY, Pixels
from snf_runtime.images.codec import encode_png, image_grid

MAX_SEED = 2**53 - 1
"""Largest seed that every JSON reader represents exactly."""


def draw_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def encode(form: str, pixels: Pixels) -> tuple[bytes, str]:
    """Encode uint8 images ``(N, C, H, W)`` as ``png``, ``npy`` or ``zip``; return the bytes and their media type."""
    if form == "png":
        return encode_png(image_grid(pixels)), "image/png"
    buffer = io.BytesIO()
    if form == "npy":
        # The layout that scoring accepts: (N, H, W) for one channel, else (N, H, W, C).
        np.save(buffer, pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1))
        return buffer.getvalue(), NPY
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for index, image in enumerate(pixels):
            # ZipInfo's fixed date keeps the bytes the same for the same seed.
            archive.writestr(zipfile.ZipInfo(f"sample-{index:03d}.png"), encode_png(image))
    return buffer.getvalue(), "application/zip"
