"""Decoding and encoding of images: PNG, JPEG, WebP and BMP files, and arrays in ``.npy`` files."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from models.errors import ImageError
from models.images.npy import npy_header
from models.images.preprocessing import DecodedImage, Pixels, Preprocessing, as_image, check_size, conform

__all__ = ["DecodedImage", "Preprocessing", "decode_image", "decode_npy", "encode_png", "image_grid", "open_image"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 4096 * 4096
"""Largest number of pixels; larger images are refused by their header, before they are decompressed."""
EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}


def decode_image(data: bytes, preprocessing: Preprocessing) -> DecodedImage:
    """Return the pixels of an image file, converted to a model's size and channels. Raises ``ImageError`` if refused.

    The file is PNG, JPEG, WebP or BMP. Palettes and opaque alpha channels are converted. If the preprocessing is
    "exact", images of another size or colour are refused, because a conversion would change the score. 16-bit and
    animated files are always refused, and so are transparent ones, except for an RGBA file and a model with 4 channels.

    Args:
        data: Content of the file.
        preprocessing: Shape of the model's images, and how other sizes and colours are treated.

    Returns:
        The pixels, with the conversions that were made.

    Raises:
        ImageError: The file cannot be decoded or the model does not accept it.
    """
    return conform(open_image(data, lambda size: check_size(size, preprocessing)), preprocessing)


def open_image(data: bytes, check: Callable[[tuple[int, int]], None] = lambda _size: None) -> Image.Image:
    """Decode a PNG, JPEG, WebP or BMP file to an 8-bit Pillow image of its own size. Raises ``ImageError`` if it fails.

    Neither size nor colour is changed.

    Args:
        data: Content of the file.
        check: Called with the width and height in the header before the file is decompressed; may raise.

    Raises:
        ImageError: The file is not an image that can be decoded.
    """
    if not data:
        raise ImageError("empty-image", "The file is empty", "expected an image file, got 0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked below, by the header
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ImageError(
                "undecodable-image", "The file is not an image", f"expected one of {', '.join(FORMATS)}"
            ) from error
        except (Image.DecompressionBombError, ValueError, OSError, SyntaxError) as error:
            raise _undecodable(error) from error
        _check_header(image)
        check(image.size)
        try:
            image.load()
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise _undecodable(error) from error
    return image


def _undecodable(error: Exception) -> ImageError:
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(f"expected at most {MAX_PIXELS} pixels, the header gives more")
    if "truncated" in str(error).lower():
        return ImageError("truncated-image", "The image file is incomplete", f"the file ends too early: {error}")
    return ImageError("undecodable-image", "The image cannot be decoded", str(error) or type(error).__name__)


def _too_large(detail: str) -> ImageError:
    return ImageError("image-too-large", "The image is too large", detail)


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(f"expected at most {MAX_PIXELS} pixels, the header gives {width}x{height}")
    # Pillow opens a 16-bit colour PNG in an 8-bit mode; only the layout of its data differs.
    layouts = [
        tile.args for tile in getattr(image, "tile", []) if isinstance(tile.args, str) and tile.args.endswith(";16B")
    ]
    if image.mode not in EIGHT_BIT_MODES or layouts:
        got = layouts[0] if layouts else image.mode
        raise ImageError("unsupported-image", "The image is not 8-bit", f"expected 8 bits a channel, got mode {got}")
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("unsupported-image", "The image is animated", "expected one frame")


def decode_npy(data: bytes, preprocessing: Preprocessing, max_images: int) -> Pixels:
    """Return the images of a ``.npy`` file, uint8 ``(N, C, H, W)``. Raises ``ImageError`` for another type or shape.

    The shape in the header is checked before the data are read. Pickled content, other sizes and other numbers of
    channels are refused.

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
    """Return a PNG file, as bytes, of pixels, uint8 ``(C, H, W)`` with 1 (grey), 3 (RGB) or 4 channels (RGBA)."""
    file = io.BytesIO()
    as_image(pixels).save(file, format="PNG")
    return file.getvalue()


def image_grid(images: Pixels, gap: int = 2) -> Pixels:
    """Return one image, ``(C, H', W')``, that shows N images, uint8 ``(N, C, H, W)``, in a near-square grid.

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
