"""Batches of images of one or of any size, and the division of large images into tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from snf_runtime.errors import ImageError
from snf_runtime.images.preprocessing import DecodedImage, Pixels, Preprocessing

Batch: TypeAlias = Pixels | Sequence[Pixels]
"""N images, uint8: an array ``(N, C, H, W)``, or arrays ``(C, H, W)`` of different heights and widths."""

NamedImage: TypeAlias = tuple[str, DecodedImage | ImageError]
"""The name of an image, and the image or the reason why it cannot be scored."""
BATCH, BATCH_BYTES = 64, 64 * 2**20  # most images of a batch, and most bytes of a batch of several

T = TypeVar("T")


def batch_of(images: Sequence[Pixels], preprocessing: Preprocessing) -> Batch:
    """Combine preprocessed images into one array, or a list for a model of tiles."""
    return list(images) if preprocessing.tiled else np.stack(images)


def stacked(images: Batch) -> Pixels:
    """Return images as one array; raise ``ValueError`` if their sizes differ."""
    if isinstance(images, np.ndarray):
        return images
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise ValueError(f"expected images of one size, got {', '.join(map(str, sorted(sizes)))}")
    return np.stack(images)


def chosen(images: Batch, rows: NDArray[np.integer]) -> Batch:
    """Return the images with the given indices, as an array or list like ``images``."""
    return images[rows] if isinstance(images, np.ndarray) else [images[row] for row in rows.tolist()]


def joined(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches: an array if all images have one size, otherwise a list."""
    arrays = [batch for batch in batches if isinstance(batch, np.ndarray)]
    if len(arrays) == len(batches) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [image for batch in batches for image in batch]


def check_batch(images: Batch, shape: tuple[int, int, int], *, tiled: bool) -> None:
    """Raise ``ValueError`` unless images are uint8 of ``shape``, which with ``tiled`` is that of a tile."""
    if isinstance(images, np.ndarray) and not (tiled and images.ndim == 4):
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"expected uint8 images (N, {shape}), got {images.dtype} {images.shape}")
        return
    for image in images:
        sound = image.ndim == 3 and len(image) == shape[0] and image.size > 0
        if image.dtype != np.uint8 or not (sound if tiled else image.shape == shape):
            wanted = f"({shape[0]}, H, W)" if tiled else str(shape)
            raise ValueError(f"expected uint8 images {wanted}, got {image.dtype} {image.shape}")


def in_batches(items: Iterable[T], max_items: int, max_bytes: int, nbytes: Callable[[T], int]) -> Generator[list[T]]:
    """Yield items in batches of at most ``max_items`` items and ``max_bytes`` bytes; a larger item has its own."""
    batch: list[T] = []
    size = 0
    for item in items:
        added = nbytes(item)
        if batch and (len(batch) == max_items or size + added > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += added
    if batch:
        yield batch


def batches_of(images: Iterable[NamedImage]) -> Generator[list[NamedImage]]:
    """Yield at most 64 images at once, fewer if their pixels would exceed 64 MiB."""
    yield from in_batches(
        images, BATCH, BATCH_BYTES, lambda named: 0 if isinstance(named[1], ImageError) else named[1].pixels.nbytes
    )


SHARED = 8
"""Neighbouring tiles share at least one place in so many of a side. Part of every model of tiles: do not change it."""

Value = TypeVar("Value", bound=np.generic)
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class TilePlan:
    """Division of an image into overlapping square tiles of places, numbered by rows and mirrored beyond the edges."""

    height: int
    width: int
    side: int  # of a tile, pixels
    stride: int  # side of a place, pixels; divides side
    tops: tuple[int, ...]  # first rows of the rows of tiles, rising multiples of stride
    lefts: tuple[int, ...]  # first columns of the columns of tiles

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of places that cover the image; the last may reach beyond its edges."""
        return math.ceil(self.height / self.stride), math.ceil(self.width / self.stride)

    @property
    def middle(self) -> int:
        return len(self.tops) // 2 * len(self.lefts) + len(self.lefts) // 2

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in pixels of a tile, cut off at the image's edges."""
        top, left = self._corner(number)
        return left, top, min(left + self.side, self.width), min(top + self.side, self.height)

    def cut(self, image: Pixels, number: int) -> Pixels:
        """Return the pixels of a tile, uint8 ``(C, side, side)``, from an image ``(C, H, W)``."""
        top, left = self._corner(number)
        part = np.ascontiguousarray(image[:, top : top + self.side, left : left + self.side])
        below, right = self.side - part.shape[1], self.side - part.shape[2]
        return np.pad(part, ((0, 0), (0, below), (0, right)), mode="symmetric") if below or right else part

    def merged(self, values: NDArray[Value]) -> NDArray[Value]:
        """Bring values at places of tiles on the grid of the image; where tiles overlap the nearest centre counts."""
        (row, inner_row), (column, inner_column) = self._nearest
        in_rows = values.reshape(len(self.tops), len(self.lefts), *values.shape[1:])
        return in_rows[row[:, None], column, inner_row[:, None], inner_column]

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up values at places of overlapping tiles on the grid of the image."""
        rows, columns = self.grid
        places = values.shape[1]
        total = np.zeros((self.tops[-1] // self.stride + places, self.lefts[-1] // self.stride + places))
        for number, of_tile in enumerate(values):
            top, left = (side // self.stride for side in self._corner(number))
            total[top : top + places, left : left + places] += of_tile
        return total[:rows, :columns]

    def _corner(self, number: int) -> tuple[int, int]:
        row, column = divmod(number, len(self.lefts))
        return self.tops[row], self.lefts[column]

    @cached_property
    def _nearest(self) -> tuple[tuple[Indices, Indices], tuple[Indices, Indices]]:
        """For each row of the grid the row of tiles and the row in the tile, and the same for its columns."""
        rows, columns = self.grid
        return self._nearest_of(self.tops, rows), self._nearest_of(self.lefts, columns)

    def _nearest_of(self, origins: tuple[int, ...], places: int) -> tuple[Indices, Indices]:
        first = np.array(origins) // self.stride
        # Doubled, so that all distances are whole numbers.
        distances = np.abs(2 * np.arange(places)[:, None] + 1 - (2 * first + self.side // self.stride))
        tile: Indices = distances.argmin(1)
        return tile, np.arange(places) - first[tile]


@lru_cache(maxsize=4096)
def tile_plan(height: int, width: int, side: int, stride: int) -> TilePlan:
    """Return as few evenly spaced tiles as share ``max(p // 8, 1)`` of p places a side, or none where p is 1.

    >>> tile_plan(300, 600, 256, 16)
    TilePlan(height=300, width=600, side=256, stride=16, tops=(0, 48), lefts=(0, 176, 352))
    >>> len(tile_plan(4096, 4096, 256, 16)), len(tile_plan(10_000, 10_000, 256, 16)), len(tile_plan(5, 9, 256, 16))
    (361, 2025, 1)
    """
    if side % stride:
        raise ValueError(f"expected a side that is a multiple of {stride}, got {side}")
    return TilePlan(height, width, side, stride, _origins(height, side, stride), _origins(width, side, stride))


def size_of(image: Pixels) -> tuple[int, int]:
    """Return height and width of an image ``(C, H, W)`` in pixels."""
    return image.shape[1], image.shape[2]


def _origins(length: int, side: int, stride: int) -> tuple[int, ...]:
    """Return the first pixels of evenly spaced tiles along a side of an image, rising multiples of the stride."""
    places = side // stride
    shared = min(max(1, places // SHARED), places - 1)
    # How many places there are to move over, and how many a tile may move at most.
    free, step = max(0, math.ceil(length / stride) - places), places - shared
    moves = math.ceil(free / step)
    return 0, *(stride * (move * free // moves) for move in range(1, moves + 1))
