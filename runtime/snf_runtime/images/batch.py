"""Batches of images: a single array, or a sequence of arrays for models that take any image size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.preprocessing import Pixels, Preprocessing

Batch: TypeAlias = Pixels | Sequence[Pixels]
"""N images, uint8: an array ``(N, C, H, W)``, or arrays ``(C, H, W)`` of different heights and widths."""

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


def in_batches(items: Iterable[T], most: int, most_bytes: int, nbytes: Callable[[T], int]) -> Generator[list[T]]:
    """Yield items in batches of at most ``most`` items and ``most_bytes`` bytes; a larger item has its own batch."""
    batch: list[T] = []
    size = 0
    for item in items:
        added = nbytes(item)
        if batch and (len(batch) == most or size + added > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += added
    if batch:
        yield batch
