"""Decoding and encoding of images: image files of any accepted format, and arrays in ``.npy`` files."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from snf_runtime.errors import ImageError, transparent_image, unsupported_image
from snf_runtime.images import untrusted
from snf_runtime.images.files import FORMATS, MAX_PIXELS
from snf_runtime.images.preprocessing import (
    DecodedImage,
    OpenedImage,
    Pixels,
    Preprocessing,
    as_image,
    check_size,
    conform,
)
from snf_runtime.images.untrusted import BoundedFile, check_cost, never

MAX_HEADER = 10_000
"""Largest header in bytes, that of NumPy; NumPy itself would read up to 4 GiB before it checks the size."""
READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # the same but for names of fields, which no array here has
}
MAX_DIMENSIONS = 32
MAX_BYTES = 2**63 - 1  # largest size of an array in bytes; larger sizes overflow 64-bit integers


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, Fortran order and type and stop at the data; raise ``ValueError`` for a damaged or vast array."""
    version = np.lib.format.read_magic(file)
    if version not in READERS:
        raise ValueError(f"expected version 1.0, 2.0 or 3.0, got {version[0]}.{version[1]}")
    length = _read(file, 2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes, got {size}")
    header = io.BytesIO(length + _read(file, size))
    try:
        shape, fortran_order, dtype = READERS[version](header)
    except (
        ValueError, SyntaxError, TokenError, TypeError, LookupError, RecursionError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        # The text of NumPy may contain the whole header.
        raise ValueError(f"the header of the array cannot be read: {str(error)[:100]}") from error
    if dtype.names is not None or dtype.subdtype is not None:
        raise ValueError("expected an array of numbers or text, got one of records")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    # Each side by itself too, because a side of 0 makes the product 0.
    if any(isinstance(side, bool) or not 0 <= side <= MAX_BYTES for side in shape):
        raise ValueError("expected sides from 0 to 2^63 - 1, got a shape with a side outside")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"expected at most 2^63 - 1 bytes, got an array of shape {shape}")
    return shape, fortran_order, dtype


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the file ends within the header of the array")
    return data


Image.MAX_IMAGE_PIXELS = MAX_PIXELS
MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}
GREY_16 = {"I;16", "I;16B", "I;16L", "I;16N"}
STEPS = {"L;2": 85, "L;4": 17}
"""Distance of neighbouring grey levels in 8 bits, by Pillow's name for the layout of fewer bits."""
PARTS, LEAST_PART, LARGEST_PART = 256, 2**10, 2**16
"""Parts that the content of a file is decoded in, and their least and largest bytes: decoding stops between two."""
FIRST_OF_SEVERAL = {"GIF", "MPO"}
"""Formats whose first picture stands for the file: a GIF animation, and a photograph with previews beside it."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
UNREADABLE, UPRIGHT, SIDEWAYS = 0, 1, 5
"""EXIF orientations: stand-in for damaged ones, upright, and the first that swap width and height."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings the pixels of a file upright, by the value of the EXIF tag Orientation."""


def open_image(
    data: bytes,
    check: Callable[[tuple[int, int]], None] = lambda _size: None,
    is_abandoned: Callable[[], bool] = never,
    *,
    any_cost: bool = False,
) -> OpenedImage:
    """Decode a file, upright, in its size and colour; ``any_cost`` takes what an earlier version accepted."""
    if not data:
        raise ImageError("empty-image", "The file is empty", "expected an image file, got 0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes, which are checked here by the header
        try:
            content = io.BytesIO(data) if any_cost else BoundedFile(data, is_abandoned)
            file = Image.open(content, formats=FORMATS)
            file.decodermaxblock = min(max(len(data) // PARTS, LEAST_PART), LARGEST_PART)
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise _unidentified(data) from error
        except Exception as error:
            raise _undecodable(error) from error
        _check_pixels(file.size)
        orientation = _orientation(file)
        # Pillow itself turns TIFF files, and gives their upright size.
        turned = file.format != "TIFF"
        check(file.size[::-1] if turned and orientation >= SIDEWAYS else file.size)
        try:
            if not any_cost:
                check_cost(file, data)
            notes, bits = _check_content(file, signs=any_cost), _bits(file)
            _set_transparency(file, bits, ignored=any_cost)
            file.load()
            image, mode = (_native(file, bits), "I;16") if file.mode in GREY_16 else (file, file.mode)
        except ImageError:
            raise
        except Exception as error:
            raise _undecodable(error) from error
        if turned and orientation == UPRIGHT:
            orientation = _orientation(file)  # a PNG file may have it after its pixels
    if turned and orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if orientation in TURNS:
        notes.append(f"turned as its EXIF orientation {orientation} says")
    if orientation == UNREADABLE:
        notes.append("taken as upright: its EXIF data cannot be read")
    if mode != "I;16" and bits == 16:
        notes.append("16 bits brought to 8: every 256 levels are one")
    form = "JPEG" if file.format == "MPO" else file.format
    return OpenedImage(image, form, mode, tuple(notes), 2**bits if mode == "I;16" and bits < 16 else None)


def pixels_of(data: bytes, is_abandoned: Callable[[], bool] = never) -> int:
    """Return the number of pixels by the header, 0 for one that is not accepted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width, height = Image.open(BoundedFile(data, is_abandoned), formats=FORMATS).size
    except MemoryError:
        raise
    except Exception:  # Pillow raises nearly anything for damaged files, which are refused when they are decoded
        return 0
    pixels: int = width * height
    return pixels if pixels <= MAX_PIXELS else 0


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8, of an image; ``UNREADABLE`` for damaged metadata."""
    # Without metadata in the header, ``getexif`` would decompress a whole PNG file.
    if not image.info.keys() & {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} and image.format != "TIFF":
        return UPRIGHT
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except MemoryError:
        raise
    except Exception:  # Pillow raises nearly anything for damaged metadata; the pixels are sound all the same
        return UNREADABLE
    return value if isinstance(value, int) and value in TURNS else UPRIGHT


def _check_pixels(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(f"expected at most {MAX_PIXELS} pixels, the header gives {width}x{height}")


def _check_content(image: Image.Image, *, signs: bool) -> list[str]:
    """Refuse unsupported content, and return notes; ``signs`` takes signed 8-bit numbers as levels 0 to 255."""
    mode = image.mode
    if isinstance(image, untrusted.TiffFile):
        untrusted.check_kind(image)
        # Pillow takes the bytes of 8-bit numbers as they are.
        mode = "I" if untrusted.is_signed(image) and not signs else mode
    if mode not in MODES | GREY_16:
        kinds = {"F": "floating-point numbers", "I": "signed or 32-bit integers", "LAB": "CIELAB colours"}
        got = kinds.get(mode, f"mode {mode}")
        raise unsupported_image(
            f"expected unsigned integers of 8 or 16 bits a channel, got {got}; scale and save it as PNG"
        )
    # Pillow would read a whole GIF or TIFF file, page by page, to count.
    if not getattr(image, "is_animated", False):
        return []
    if image.format not in FIRST_OF_SEVERAL:
        what = "pages" if image.format == "TIFF" else "frames of an animation"
        raise unsupported_image(f"expected one picture, got several {what}; save each as a file of its own")
    return ["the first of several frames"]


def _bits(image: Image.Image) -> int:
    """Return the bits of a channel: 16, or fewer. Pillow keeps the upper 8 of 16 bits in images with colour."""
    if isinstance(image, untrusted.TiffFile):
        return untrusted.bits(image)
    return 16 if any(";16" in layout for layout in _layouts(image)) else 8


def _layouts(image: Image.Image) -> list[str]:
    """Return Pillow's names for the layouts of the parts of an image that is not decoded yet, where they have one."""
    return [tile.args for tile in getattr(image, "tile", []) if isinstance(tile.args, str)]


def _set_transparency(image: Image.Image, bits: int, *, ignored: bool) -> None:
    """Bring the colour that a PNG file declares transparent from the depth of the file to 8 bits, or ignore it."""
    transparent = image.info.pop("transparency", None)
    if transparent is None or ignored:
        return
    steps = [STEPS[layout] for layout in _layouts(image) if layout in STEPS]
    if isinstance(transparent, int) and steps:
        transparent = transparent * steps[0] & 0xFF
    elif isinstance(transparent, tuple) and bits == 16:
        transparent = tuple(value >> 8 for value in transparent)
    image.info["transparency"] = transparent


def _native(image: Image.Image, bits: int) -> Image.Image:
    """Return a grey image of up to 16 bits in mode ``I;16`` and with black as 0."""
    levels = np.asarray(image).astype(np.uint16)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and (levels == transparent).any():
        raise transparent_image()
    # Pillow reads black and white the right way round for 8 bits alone.
    if isinstance(image, untrusted.TiffFile) and untrusted.white_is_zero(image):
        levels = np.uint16(2**bits - 1) - levels
    return Image.fromarray(levels)


def _unidentified(data: bytes) -> ImageError:
    if data.startswith(TIFF_STARTS):
        return unsupported_image(
            "expected a TIFF file of unsigned integers of 8 or 16 bits, in grey, colour or CMYK; got another kind, "
            "such as floating-point numbers; scale and save it as PNG"
        )
    return ImageError("undecodable-image", "The file is not an image", f"expected one of {', '.join(FORMATS)}")


def _undecodable(error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(f"expected at most {MAX_PIXELS} pixels, the header gives more")
    if "truncated" in str(error).lower():
        return ImageError("truncated-image", "The image file is incomplete", f"the file ends too early: {error}")
    return ImageError("undecodable-image", "The image cannot be decoded", str(error) or type(error).__name__)


def _too_large(detail: str) -> ImageError:
    return ImageError("image-too-large", "The image is too large", detail)


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
        detail = f"expected {('N', *wanted)}, got {tuple(shape)}"
        raise ImageError("wrong-image-shape", "The array has the wrong shape", detail)
    if not 1 <= shape[0] <= max_images:
        detail = f"expected 1 to {max_images}, got {shape[0]}"
        raise ImageError("image-too-large", "The array holds too many images", detail)
    size, start = math.prod(shape), file.tell()
    if len(data) - start < size:
        detail = f"expected {size} bytes, got {len(data) - start}"
        raise ImageError("truncated-image", "The array is incomplete", detail)
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
