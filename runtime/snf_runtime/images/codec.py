"""Decoding and encoding of images: image files, and arrays in ``.npy`` files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np

from snf_runtime.errors import ImageError
from snf_runtime.images.bounded_file import never
from snf_runtime.images.file_decoding import open_image
from snf_runtime.images.npy import npy_header
from snf_runtime.images.preprocessing import DecodedImage, Pixels, Preprocessing, as_image, check_size, conform

__all__ = ["DecodedImage", "Preprocessing", "decode_image", "decode_npy", "encode_png", "image_grid"]


def decode_image(data: bytes, preprocessing: Preprocessing, is_abandoned: Callable[[], bool] = never) -> DecodedImage:
    """Decode an image file, upright, for a model; raise ``ImageError`` if it is damaged or the model refuses it."""
    return conform(open_image(data, lambda size: check_size(size, preprocessing), is_abandoned), preprocessing)


def decode_npy(data: bytes, preprocessing: Preprocessing, max_images: int) -> Pixels:
    """Decode a uint8 array ``(N, H, W)`` or ``(N, H, W, C)`` to ``(N, C, H, W)``; the header is checked first."""
    if not data:
        raise ImageError("empty-image", "The file is empty", "expected a .npy file, got 0 bytes")
    file = io.BytesIO(data)
    try:
        shape, fortran_order, dtype = npy_header(file)
    except (ValueError, EOFError, SyntaxError) as error:
        raise ImageError("undecodable-image", "The file is not a .npy array", str(error)) from error
    channels, height, width = preprocessing.shape
    if preprocessing.tiled and len(shape) >= 3 and min(shape) > 0:
        height, width = shape[1:3]
    wanted = (height, width) if channels == 1 else (height, width, channels)
    if dtype != np.uint8:
        raise ImageError("unsupported-image", "The array is not 8-bit", f"expected uint8, got {dtype}")
    if len(shape) < 3 or (shape[1:] != wanted and shape[1:] != (height, width, channels)):
        raise ImageError(
            "wrong-image-shape",
            "The array has the wrong shape",
            f"expected {('N', *wanted)}, got {tuple(shape)}",
        )
    if not 1 <= shape[0] <= max_images:
        raise ImageError(
            "image-too-large",
            "The array holds too many images",
            f"expected 1 to {max_images}, got {shape[0]}",
        )
    size, start = math.prod(shape), file.tell()
    if len(data) - start < size:
        raise ImageError(
            "truncated-image",
            "The array is incomplete",
            f"expected {size} bytes, got {len(data) - start}",
        )
    flat = np.frombuffer(data, dtype=np.uint8, count=size, offset=start)
    images = flat.reshape(shape, order="F" if fortran_order else "C").reshape(-1, height, width, channels)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def encode_png(pixels: Pixels) -> bytes:
    """Encode pixels, uint8 ``(C, H, W)`` with 1 (grey), 3 (RGB) or 4 channels (RGBA), as a PNG file."""
    file = io.BytesIO()
    as_image(pixels).save(file, format="PNG")
    return file.getvalue()


def image_grid(images: Pixels, gap: int = 2) -> Pixels:
    """Arrange images, uint8 ``(N, C, H, W)``, in a nearly square grid with grey gaps, ``(C, H', W')``."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid
