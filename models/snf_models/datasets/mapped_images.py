from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

PIXELS = "pixels.bin"
SIZES = "sizes.npy"


class MappedImages(Sequence[NDArray[np.uint8]]):
    """Images of different sizes, uint8 ``(C, H, W)``, one after the other in a memory-mapped file."""

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
        """Return the images of ``pixels.bin`` and ``sizes.npy``; None if these are missing or damaged."""
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
