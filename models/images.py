"""Image files to pixels and back, trusting neither a name nor a size from outside."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from models.npy import npy_header
from models.problems import ImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 4096 * 4096
"""Larger images are refused from their header alone, before anything is decompressed."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
EIGHT_BIT_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}

Pixels = NDArray[np.uint8]


class Preprocessing(BaseModel):
    """What a model expects of an image, part of its manifest and applied alike in training and scoring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)

    @property
    def id(self) -> str:
        """``sha256:`` and the digest of the canonical JSON form."""
        return "sha256:" + hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class DecodedImage:
    """Pixels ``(C, H, W)`` and what was done to get them: ``converted`` names a change of mode, such as ``P -> L``."""

    pixels: Pixels
    converted: str | None
    resized: bool = False


def decode_image(data: bytes, preprocessing: Preprocessing) -> DecodedImage:
    """Decode a PNG, JPEG, WebP or BMP file into what a model expects.

    Palettes and alpha channels that change nothing are converted, and the result says so; colour for a grey model (and
    the reverse), 16-bit files and other sizes are refused, as a silent conversion would change what is scored.
    Raises ``ImageError``.
    """
    if not data:
        raise ImageError("empty-image", "The file is empty", "expected an image file, got 0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked below, from the header
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ImageError(
                "undecodable-image", "The file is not an image", f"expected one of {', '.join(FORMATS)}"
            ) from error
        except (Image.DecompressionBombError, ValueError, OSError, SyntaxError) as error:
            raise _undecodable(error) from error
        _check_header(image, preprocessing)
        try:
            image.load()
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise _undecodable(error) from error
    return _to_mode(image, preprocessing)


def _undecodable(error: Exception) -> ImageError:
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(f"the header promises more than the {MAX_PIXELS} pixels that are decoded at most")
    if "truncated" in str(error).lower():
        return ImageError("truncated-image", "The image file is incomplete", f"the file ends too early: {error}")
    return ImageError("undecodable-image", "The image cannot be decoded", str(error) or type(error).__name__)


def _too_large(detail: str) -> ImageError:
    return ImageError("image-too-large", "The image is too large", detail)


def _check_header(image: Image.Image, preprocessing: Preprocessing) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(f"the header says {width}x{height} pixels, at most {MAX_PIXELS} are decoded")
    # A 16-bit colour PNG opens in an 8-bit mode; only the layout of its data tells.
    layouts = [
        tile.args for tile in getattr(image, "tile", []) if isinstance(tile.args, str) and tile.args.endswith(";16B")
    ]
    if image.mode not in EIGHT_BIT_MODES or layouts:
        got = layouts[0] if layouts else image.mode
        raise ImageError("unsupported-image", "The image is not 8-bit", f"expected 8 bits a channel, got mode {got}")
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("unsupported-image", "The image is animated", "expected one frame")
    if (height, width) != (preprocessing.height, preprocessing.width):
        raise ImageError(
            "wrong-image-shape",
            "The image has the wrong size",
            f"expected {preprocessing.width}x{preprocessing.height} pixels (width x height), got {width}x{height}",
        )


def _to_mode(image: Image.Image, preprocessing: Preprocessing) -> DecodedImage:
    source, wanted = image.mode, MODES.get(preprocessing.channels, "")
    if source in {"L", "RGB"} and "transparency" in image.info:
        # One colour is declared transparent: as an alpha channel it is judged like any other.
        image = _without_palette_or_alpha(image.convert("LA" if source == "L" else "RGBA"))
    if source in {"1", "P", "PA", "LA", "RGBA"} and source != wanted:
        image = _without_palette_or_alpha(image)
    if image.mode == "RGB" and wanted == "L":
        red, green, blue = (np.asarray(band) for band in image.split())
        if np.array_equal(red, green) and np.array_equal(green, blue):
            image = image.getchannel(0)  # grey in a colour file: the same numbers
    if image.mode in {"CMYK", "YCbCr"} and wanted == "RGB":
        image = image.convert("RGB")
    if image.mode != wanted:
        raise ImageError(
            "wrong-image-shape",
            "The image has the wrong channels",
            f"expected {preprocessing.channels} channel(s) ({wanted}), got mode {source}",
        )
    pixels = np.asarray(image, dtype=np.uint8).reshape(preprocessing.height, preprocessing.width, -1)
    return DecodedImage(
        np.ascontiguousarray(pixels.transpose(2, 0, 1)), None if source == wanted else f"{source} -> {wanted}"
    )


def _without_palette_or_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "1":
        return image.convert("L")
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() != (255, 255):
        raise ImageError(
            "unsupported-image",
            "The image is transparent",
            "expected opaque pixels: what lies behind is not defined",
        )
    return image.convert("L" if image.mode == "LA" else "RGB")


def decode_npy(data: bytes, preprocessing: Preprocessing, max_images: int) -> Pixels:
    """Decode a ``.npy`` file of uint8 ``(N, H, W)`` or ``(N, H, W, C)`` into ``(N, C, H, W)``.

    Raises ``ImageError``; the shape in the header is checked before the data are read. Pickled content is refused.
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
    content = data[file.tell() :]
    if len(content) < math.prod(shape):
        raise ImageError(
            "truncated-image",
            "The array is incomplete",
            f"expected {math.prod(shape)} bytes, got {len(content)}",
        )
    flat = np.frombuffer(content, dtype=np.uint8, count=math.prod(shape))
    images = flat.reshape(shape, order="F" if fortran_order else "C").reshape(-1, height, width, channels)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def encode_png(pixels: Pixels) -> bytes:
    """Encode ``(C, H, W)`` with 1, 3 or 4 channels as PNG."""
    channels = pixels.shape[0]
    image = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def image_grid(images: Pixels, gap: int = 2) -> Pixels:
    """Lay out ``(N, C, H, W)`` in a near-square grid with ``gap`` grey pixels between: ``(C, H', W')``."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 128, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid
