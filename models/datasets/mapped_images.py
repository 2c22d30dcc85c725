"""Images of different sizes in one memory-mapped file of pixels, read image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

PIXELS = "pixels.bin"
SIZES = "sizes.npy"


class MappedImages(Sequence[NDArray[np.uint8]]):
    """Read-only sequence of images in a memory-mapped file.

    Each image is uint8 ``(C, H, W)``. The pixels of the images follow each other in the file.

    Pixels are read when an image is used, and not kept.

    Args:
        pixels: The pixels of all images, uint8 ``(bytes,)``, mapped from a file.
        channels: Channels of every image.
        sizes: Heights and widths of the images, ``(n, 2)``.
        starts: The first byte of each image, ``(n,)``; None where the images are all that ``pixels`` holds.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        channels: int,
        sizes: NDArray[np.int64],
        starts: NDArray[np.int64] | None = None,
    ) -> None:
        lengths = channels * sizes[:, 0] * sizes[:, 1]
        self._pixels = pixels
        self._channels = channels
        self._sizes = sizes
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if starts is None else starts

    @classmethod
    def open(cls, folder: Path, channels: int, images: int) -> Self | None:
        """Return the memory-mapped images of a folder, or None if its files are missing or damaged.

        The files are ``pixels.bin`` and ``sizes.npy``.

        Args:
            folder: The folder.
            channels: Channels that every image must have.
            images: The number of images that there must be.
        """
        try:
            sizes = np.load(folder / SIZES, allow_pickle=False)
            path = folder / PIXELS
            sound = sizes.dtype == np.int64 and sizes.shape == (images, 2) and bool((sizes > 0).all())
            # As Python's whole numbers, which do not overflow.
            if not sound or sum(channels * height * width for height, width in sizes.tolist()) != path.stat().st_size:
                return None
            return cls(np.memmap(path, np.uint8, "r"), channels, sizes)
        except (OSError, ValueError):
            return None

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, rows: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, rows: slice) -> MappedImages: ...

    def __getitem__(self, rows: int | slice) -> NDArray[np.uint8] | MappedImages:
        if isinstance(rows, slice):
            return MappedImages(self._pixels, self._channels, self._sizes[rows], self._starts[rows])
        height, width = self._sizes[rows].tolist()
        start = int(self._starts[rows])
        shape = self._channels, height, width
        return np.asarray(self._pixels[start : start + self._channels * height * width]).reshape(shape)
