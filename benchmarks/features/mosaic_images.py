"""Mosaics of functional solar cells, made from seeds when they are read, and a planted defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from snf_runtime.images.preprocessing import Pixels

CELL = 64
DEFECT_SIDE, DEFECT_CONTRAST = 16, 0.8
"""Diameter in pixels of a dark disc, and the share of the grey values that it takes away."""
DEFECT = f"a dark disc of {DEFECT_SIDE} pixels, in which grey values are {1 - DEFECT_CONTRAST:.0%} of those of the cell"
SEED = 20_261


@dataclass(frozen=True)
class Mosaics(Sequence[Pixels]):
    """Mosaics, uint8 ``(1, side, side)`` each, of cells that are drawn anew for each from one pool.

    All mosaics are exchangeable: each of their places has a cell of the pool, drawn independently.

    Attributes:
        pool: Functional cells, ``(N, 1, 64, 64)``.
        side: Side of a mosaic in pixels, a multiple of 64.
        numbers: The numbers of the mosaics, which are their seeds.
        faulty: Whether each has a defect.
    """

    pool: Pixels
    side: int
    numbers: range
    faulty: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, rows: int) -> Pixels: ...

    @overload
    def __getitem__(self, rows: slice) -> Mosaics: ...

    def __getitem__(self, rows: int | slice) -> Pixels | Mosaics:
        if isinstance(rows, slice):
            return Mosaics(self.pool, self.side, self.numbers[rows], self.faulty)
        return _kept(self, self.numbers[rows])

    def defect(self, number: int) -> tuple[int, int]:
        """Return the top and the left of the square around the defect of a mosaic, in pixels."""
        top, left = np.random.default_rng((SEED, number, 1)).integers(0, self.side - DEFECT_SIDE + 1, 2)
        return int(top), int(left)

    def make(self, number: int) -> Pixels:
        """Return a mosaic by its number, uint8 ``(1, side, side)``."""
        count = self.side // CELL
        chosen = np.random.default_rng((SEED, number)).integers(0, len(self.pool), (count, count))
        image = self.pool[chosen, 0].transpose(0, 2, 1, 3).reshape(1, self.side, self.side)
        if self.faulty:
            top, left = self.defect(number)
            y, x = np.indices((DEFECT_SIDE, DEFECT_SIDE)) + 0.5 - DEFECT_SIDE / 2
            factor = np.where(y * y + x * x <= DEFECT_SIDE**2 / 4, 1 - DEFECT_CONTRAST, 1.0)
            part = image[0, top : top + DEFECT_SIDE, left : left + DEFECT_SIDE]
            part[:] = np.rint(part * factor).astype(np.uint8)
        return image


_last: dict[tuple[int, int, bool], Pixels] = {}


def _kept(mosaics: Mosaics, number: int) -> Pixels:
    """Return a mosaic, kept until another is asked for: its tiles are cut one after the other."""
    key = number, mosaics.side, mosaics.faulty
    if key not in _last:
        _last.clear()
        _last[key] = mosaics.make(number)
    return _last[key]
