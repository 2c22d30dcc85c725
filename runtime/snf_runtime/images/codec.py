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
    """Decode an image file and convert it to the size and channels of a model.

    The file is PNG, JPEG, WebP, BMP, TIFF or GIF. It is turned upright as its EXIF orientation says. Palettes, CMYK and
    opaque alpha channels are converted, and 16 bits are brought to 8. If the preprocessing is "exact", images of
    another size or colour are refused, because a conversion would change the score. Transparent images are refused,
    except for an RGBA file and a model with 4 channels: no background is right for every model.

    Args:
        data: Content of the file.
        preprocessing: Shape of the model's images, and how other sizes and colours are treated.
        is_abandoned: Returns whether the image is no longer needed; asked again and again.

    Returns:
        The pixels, with the conversions that were made.

    Raises:
        ImageError: The file cannot be decoded or the model does not accept it.
        DecodingAbandoned: The image is no longer needed.
    """
    return conform(open_image(data, lambda size: check_size(size, preprocessing), is_abandoned), preprocessing)


def decode_npy(data: bytes, preprocessing: Preprocessing, max_images: int) -> Pixels:
    """Decode the content of a ``.npy`` file into a batch of images.

    The result is uint8 ``(N, C, H, W)``.

    The shape in the header is checked before the data are read. Pickled content, other sizes and other numbers of
    channels are refused. A model of tiles takes any size.

    Args:
        data: Content of the file, a uint8 array ``(N, H, W)`` or ``(N, H, W, C)``.
        preprocessing: Shape of the model's images.
        max_images: Largest N.

    Raises:
        ImageError: The file is not such an array.
    """
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
    """Encode the pixels of an image as a PNG file, and return its bytes.

    The pixels are uint8 ``(C, H, W)`` with 1 (grey), 3 (RGB) or 4 channels (RGBA).
    """
    file = io.BytesIO()
    as_image(pixels).save(file, format="PNG")
    return file.getvalue()


def image_grid(images: Pixels, gap: int = 2) -> Pixels:
    """Arrange several images in a grid and return it as one image.

    The grid is nearly square. The images are uint8 ``(N, C, H, W)`` and the result is ``(C, H', W')``.

    The images are separated by grey lines of ``gap`` pixels. Empty places are grey.
    """
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid
