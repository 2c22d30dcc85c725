"""Conversion of boxes, areas and positions in a model's image to pixels of the upright original file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from snf_runtime.images.preprocessing import Preprocessing, padded_size

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels: columns ``left`` to ``right - 1``, rows ``top`` to ``bottom - 1``."""
ROUNDING = 1e-6
"""Share of a pixel by which arithmetic may be off before a box grows by a whole pixel."""


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
