"""Preprocessing of images to the size and channels of a model, and the way back to pixels of the file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from snf_runtime.errors import ImageError, transparent_image

Fit = Literal["exact", "crop", "stretch", "pad", "tiles"]
Colour = Literal["exact", "grey", "rgb"]
Pixels = NDArray[np.uint8]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = {"grey": 1, "rgb": 3}
GREY_MODES = frozenset({"1", "L", "LA", "I;16"})  # modes of files without colour channels, as Pillow names them
MAX_LEVELS = 2**16
RANGES = {"channels": (1, 4), "height": (1, 4096), "width": (1, 4096), "levels": (256, MAX_LEVELS)}
"""The smallest and the largest value of each number of a preprocessing."""
MASKED = 128  # grey level from which on a pixel of a mask is part of a defect
STRIP_PIXELS = 2**20  # most pixels that are copied from Pillow at a time
RESAMPLING = Image.Resampling.BICUBIC
"""Pillow widens it against aliasing and computes in integers, the same everywhere. Lanczos overshoots more."""


@dataclass(frozen=True)
class Preprocessing:
    """Image size and channels that a model takes, and how images that differ are treated.

    Other images are refused, resized or changed in colour.

    ``fit`` is the treatment of other sizes. "exact": they are refused. "crop": the shorter side is resized and the
    middle is cut out. "stretch": both sides are resized. "pad": the longer side is resized and the rest is black.
    "tiles": images keep their size and are scored tile by tile; height and width are those of a tile.
    ``colour`` is the treatment of other channels. "exact": they are refused if a conversion would change a value.
    "grey": colours become their ITU-R 601 luma. "rgb": grey values are repeated. ``levels`` is the number of levels of
    16-bit grey files, which become 256: 65536, or 4096 for a camera of 12 bits.

    >>> Preprocessing(channels=1, height=28, width=28).shape
    (1, 28, 28)
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    """Where it is part of a model of Pydantic, which this module does not need."""

    channels: int
    height: int
    width: int
    fit: Fit = "exact"
    colour: Colour = "exact"
    levels: int = MAX_LEVELS

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"expected {name} to be a whole number from {least} to {most}, got {value!r}")
        for name, choices in (("fit", get_args(Fit)), ("colour", get_args(Colour))):
            if getattr(self, name) not in choices:
                raise ValueError(f"expected {name} to be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.channels != CHANNELS.get(self.colour, self.channels):
            raise ValueError(f"colour {self.colour!r} does not give {self.channels} channels")
        if self.tiled and self.height != self.width:
            raise ValueError(f"fit tiles takes square tiles, got {self.height}x{self.width}")

    @property
    def id(self) -> str:
        """SHA-256 of the settings as JSON, without those that have their default, with ``sha256:`` before it."""
        return _id(self)

    @property
    def tiled(self) -> bool:
        return self.fit == "tiles"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the model's images, or of its tiles."""
        return self.channels, self.height, self.width

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, Pillow's order."""
        return self.width, self.height


@dataclass(frozen=True)
class OpenedImage:
    """Decoded image file, turned upright, before its size or colours are changed."""

    image: Image.Image  # mode I;16 for 16-bit grey, else 8 bits a channel
    format: str | None
    mode: str
    notes: tuple[str, ...] = ()
    levels: int | None = None  # of 16-bit grey, where the file declares them


@dataclass(frozen=True)
class DecodedImage:
    """An image after conversion to the size and channels of a model."""

    pixels: Pixels  # uint8 (C, H, W)
    converted: str | None  # the change of mode, such as P -> L
    resized: bool = False
    format: str | None = None
    source_size: tuple[int, int] | None = None  # upright width and height before resizing
    notes: tuple[str, ...] = ()

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of the upright file, or array, before resizing."""
        _, height, width = self.pixels.shape
        return self.source_size or (width, height)


def conform(opened: OpenedImage, preprocessing: Preprocessing) -> DecodedImage:
    """Convert an opened image for a model; raise ``ImageError`` if the model refuses it."""
    image, notes = opened.image, opened.notes
    check_size(image.size, preprocessing)
    if image.mode == "I;16":
        levels = opened.levels or preprocessing.levels
        image, notes = to_eight_bits(image, levels), (*notes, _levels_note(image, levels))
    converted, note = _to_mode(replace(opened, image=image), preprocessing)
    resized = _to_size(converted, preprocessing)
    pixels = np.empty((resized.height, resized.width, len(resized.getbands())), dtype=np.uint8)
    for rows, strip in _strips(resized):
        pixels[rows] = strip
    pixels = pixels.transpose(2, 0, 1)
    if preprocessing.tiled and min(image.size) < preprocessing.height:
        notes = (*notes, f"smaller than a tile of {preprocessing.height} pixels: extended by mirroring")
    return DecodedImage(
        # An image of tiles may be large, and its tiles are copied one by one.
        pixels if preprocessing.tiled else np.ascontiguousarray(pixels),
        note,
        resized is not converted,
        opened.format,
        image.size,
        notes,
    )


def conform_mask(opened: OpenedImage, preprocessing: Preprocessing) -> NDArray[np.bool_]:
    """Convert a defect mask to bool ``(H, W)`` by the nearest pixel, true from half of white."""
    image = opened.image
    check_size(image.size, preprocessing)
    if image.mode == "I;16":
        image = to_eight_bits(image, opened.levels or preprocessing.levels)
    grey = _to_size(image.convert("L"), preprocessing, Image.Resampling.NEAREST)
    return np.asarray(grey) >= MASKED


def conform_pixels(pixels: Pixels, preprocessing: Preprocessing) -> DecodedImage:
    """Convert pixels, uint8 ``(C, H, W)``, for a model; raise ``ImageError`` if it refuses them."""
    return conform(opened_pixels(pixels), preprocessing)


def opened_pixels(pixels: Pixels) -> OpenedImage:
    """Return pixels, uint8 ``(C, H, W)`` with 1, 3 or 4 channels, as an image without a format."""
    image = as_image(pixels)
    return OpenedImage(image, None, image.mode)


def as_image(pixels: Pixels) -> Image.Image:
    """Convert pixels, uint8 ``(C, H, W)``, to a Pillow image in mode L, RGB or RGBA."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def check_size(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    """Raise ``ImageError`` for another width and height than the model's if ``fit`` is "exact"."""
    if preprocessing.fit == "exact" and size != preprocessing.size:
        raise ImageError(
            "wrong-image-shape",
            "The image has the wrong size",
            f"expected {preprocessing.width}x{preprocessing.height} pixels (width x height), got {size[0]}x{size[1]}",
        )


def opaque(image: Image.Image) -> Image.Image:
    """Convert an image to L if its mode is grey, else RGB; raise ``ImageError`` unless it is fully opaque."""
    if image.mode in {"CMYK", "YCbCr"}:
        return image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in {"L", "RGB"} and "transparency" not in image.info:
        return image
    # A single colour may be declared transparent; as an alpha channel it is checked like any other.
    grey = image.mode in {"L", "LA"}
    image = image.convert("LA" if grey else "RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        raise transparent_image()
    return image.convert("L" if grey else "RGB")


def is_grey(image: Image.Image, form: str | None) -> bool:
    """Return whether all pixels of an image in mode L, I;16 or RGB are grey; ``form`` is the format of its file."""
    if image.mode in {"L", "I;16"}:
        return True
    # libwebp gives each grey of a lossy file as (g, g, g) or, by its rounding of green, as (g + 1, g, g + 1).
    step = 1 if form == "WEBP" else 0
    return all(
        bool(((strip[..., 0] == strip[..., 2]) & (strip[..., 0] - strip[..., 1] <= step)).all())
        for _, strip in _strips(image)
    )


def _strips(image: Image.Image) -> Iterator[tuple[slice, Pixels]]:
    """Yield strips of rows as uint8 ``(rows, W, C)``: Pillow copies an image twice, too much of 100 megapixels."""
    width, height = image.size
    count = max(1, STRIP_PIXELS // width)
    for top in range(0, height, count):
        rows = slice(top, min(top + count, height))
        strip = image if height <= count else image.crop((0, rows.start, width, rows.stop))
        yield rows, np.asarray(strip, dtype=np.uint8).reshape(rows.stop - rows.start, width, -1)


def to_eight_bits(image: Image.Image, levels: int) -> Image.Image:
    """Convert 16-bit grey: ``v`` of ``levels`` becomes ``256 v // levels``, at most 255; of 65536 the upper byte."""
    values = np.asarray(image, dtype=np.uint32) * 256 // levels
    return Image.fromarray(np.minimum(values, 255).astype(np.uint8))


def _levels_note(image: Image.Image, levels: int) -> str:
    note = f"16 bits brought to 8: every {levels // 256} levels are one"
    brighter = int(np.count_nonzero(np.asarray(image) >= levels))
    return note + (f", {brighter} pixels brighter than level {levels - 1} are white" if brighter else "")


def _to_mode(opened: OpenedImage, preprocessing: Preprocessing) -> tuple[Image.Image, str | None]:
    image, source = opened.image, opened.mode
    wanted = MODES.get(preprocessing.channels, "")
    if not image.mode == wanted == "RGBA":
        image = opaque(image)
    if image.mode == "RGB" and wanted == "L" and (preprocessing.colour == "grey" or is_grey(image, opened.format)):
        image = image.convert("L")  # the luma of equal channels is exactly their value
    if image.mode == "L" and preprocessing.colour == "rgb":
        image = image.convert("RGB")
    if image.mode != wanted:
        raise ImageError(
            "wrong-image-shape",
            "The image has the wrong channels",
            f"expected {preprocessing.channels} channel(s) ({wanted}), got mode {source}; convert it first, or train "
            f"with the option colour",
        )
    return image, None if source == wanted else f"{source} -> {wanted}"


def _to_size(
    image: Image.Image, preprocessing: Preprocessing, resampling: Image.Resampling = RESAMPLING
) -> Image.Image:
    size = preprocessing.size
    if image.size == size or preprocessing.tiled:
        return image
    if preprocessing.fit == "crop":
        return ImageOps.fit(image, size, resampling)
    if preprocessing.fit == "stretch":
        return image.resize(size, resampling)
    inner = image.resize(padded_size(image.size, size), resampling)
    canvas = Image.new(image.mode, size)
    canvas.paste(inner, ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
    return canvas


def padded_size(size: tuple[int, int], into: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height of an image scaled to fit into a frame."""
    scale = min(into[0] / size[0], into[1] / size[1])
    # A side never becomes 0 pixels.
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@lru_cache(maxsize=256)
def _id(preprocessing: Preprocessing) -> str:
    chosen = {
        field.name: getattr(preprocessing, field.name)
        for field in fields(preprocessing)
        if getattr(preprocessing, field.name) != field.default
    }
    return "sha256:" + hashlib.sha256(json.dumps(chosen, separators=(",", ":")).encode()).hexdigest()


Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels: columns ``left`` to ``right - 1``, rows ``top`` to ``bottom - 1``."""
ROUNDING = 1e-6  # share of a pixel by which arithmetic may be off before a box grows by a whole pixel


@dataclass(frozen=True)
class FilePlacement:
    """Mapping of coordinates x in a preprocessed image to ``offset + scale * x`` in its upright original file."""

    size: tuple[int, int]  # width and height of the upright file
    scale: tuple[float, float] = (1.0, 1.0)  # file pixels a pixel, across and down
    offset: tuple[float, float] = (0.0, 0.0)  # column and row of the upper left corner

    @classmethod
    def of(cls, preprocessing: Preprocessing, source_size: tuple[int, int] | None) -> Self:
        """Return the mapping back to a file of upright width and height, None for pixels that came as an array."""
        model = preprocessing.size
        if source_size is not None and preprocessing.tiled:
            return cls(source_size)
        if source_size is None or source_size == model:
            return cls(model)
        if preprocessing.fit == "crop":
            scale = min(source_size[0] / model[0], source_size[1] / model[1])
            left, top = ((of_file - scale * of_model) / 2 for of_file, of_model in zip(source_size, model, strict=True))
            return cls(source_size, (scale, scale), (left, top))
        inner = padded_size(source_size, model) if preprocessing.fit == "pad" else model
        across, down = source_size[0] / inner[0], source_size[1] / inner[1]
        left, top = ((of_model - of_inner) // 2 for of_model, of_inner in zip(model, inner, strict=True))
        return cls(source_size, (across, down), (-across * left, -down * top))

    def box(self, box: Box) -> Box:
        """Convert a box without its padding; the result lies within the file and has at least one pixel."""
        left, right = self._side(box[0], box[2], 0)
        top, bottom = self._side(box[1], box[3], 1)
        return left, top, right, bottom

    def area(self, area: int, box: Box) -> int:
        """Convert an area of pixels; at least 1, at most that of ``box``, which is in pixels of the file."""
        left, top, right, bottom = box
        return max(1, min(round(area * self.scale[0] * self.scale[1]), (right - left) * (bottom - top)))

    def place(self, place: tuple[int, int]) -> tuple[int, int]:
        """Return the column and row in the file at the centre of a pixel; padding gives the nearest one."""
        column, row = (
            min(max(math.floor(offset + scale * (at + 0.5)), 0), size - 1)
            for at, size, scale, offset in zip(place, self.size, self.scale, self.offset, strict=True)
        )
        return column, row

    def _side(self, first: int, last: int, axis: int) -> tuple[int, int]:
        size, scale, offset = self.size[axis], self.scale[axis], self.offset[axis]
        low = min(max(math.floor(offset + scale * first + ROUNDING), 0), size - 1)
        high = min(max(math.ceil(offset + scale * last - ROUNDING), low + 1), size)
        return low, high
