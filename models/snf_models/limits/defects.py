"""Synthetic defects to draw into good images: scratch, spot, stain, hole and missing part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.limits import SHAPES, Shape
from snf_models.evaluation.corruptions import random_rectangle

Array: TypeAlias = NDArray[np.float64]
Image: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]

GRADED: frozenset[Shape] = frozenset({"scratch", "spot", "stain"})
"""Shapes that have a contrast; a hole is black, and a missing part has the colour of its surroundings."""
MAX_LEVEL = 255
SMALLEST = 2
SCRATCH_RATIO = 8
"""Length of a scratch over its width."""
STAIN_EDGE = 1 / 16
"""Height of the Gaussian of a stain at its edge, before it is lowered to 0 there."""
RING = 2
"""Pixels around a missing part whose mean replaces it."""


@dataclass(frozen=True)
class Defect:
    """Kind of a simulated defect."""

    shape: Shape
    size: int  # pixels: length, diameter (stain: at half its height) or side
    contrast: int | None = None  # grey levels; None for a hole and a missing part


def defect_sizes(height: int, width: int) -> tuple[int, ...]:
    """Return sizes in pixels, each about 1.4 times the one before, up to half of the shorter side.

    >>> defect_sizes(28, 28)
    (2, 3, 4, 6, 8, 12)
    """
    largest = min(height, width) // 2
    sizes, power = [], SMALLEST
    while power <= largest:
        sizes += [power, power * 3 // 2]
        power *= 2
    return tuple(size for size in sizes if size <= largest)


def defect_kinds(shapes: Sequence[Shape], contrasts: Sequence[int]) -> list[tuple[Shape, int | None]]:
    """Return all pairs of shapes and contrasts; a hole and a missing part have none."""
    return [(shape, contrast) for shape in shapes for contrast in (sorted(contrasts) if shape in GRADED else [None])]


def defect_rng(seed: int, defect: Defect, image: int) -> np.random.Generator:
    """Return the generator of a defect's place, angle and sign, the same in any order and batch."""
    return np.random.default_rng([seed, SHAPES.index(defect.shape), defect.size, defect.contrast or 0, image])


def add_defect(image: Image, defect: Defect, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Return a copy with a defect on a bright part (a hole in dark background is no fault), and its mask."""
    cover = COVERS[defect.shape](defect.size, rng)
    values = image.astype(np.float64)
    height, width = cover.shape
    top, left = random_rectangle(values, height, width, rng)
    box = (slice(None), slice(top, top + height), slice(left, left + width))
    if defect.shape == "hole":
        values[box] *= 1 - cover
    elif defect.shape == "missing-part":
        values[box] = _surroundings(values, top, left, defect.size)[:, None, None]
    else:
        if defect.contrast is None:
            raise ValueError(f"expected a contrast for a {defect.shape}")
        values[box] = _contrasted(values[box], cover * defect.contrast, rng.choice([-1, 1]))
    mask = np.zeros(image.shape[1:], dtype=np.bool_)
    mask[box[1:]] = cover > 0
    damaged: Image = np.rint(values).astype(np.uint8)
    return damaged, mask


def _contrasted(values: Array, change: Array, sign: int) -> Array:
    """Add ``change`` times the sign, or the other sign where more than half would be clipped and it keeps more."""
    either = [np.clip(values + s * change, 0, MAX_LEVEL) for s in (sign, -sign)]
    kept = [float(np.abs(changed - values).sum()) for changed in either]
    flipped = kept[0] < change.sum() * len(values) / 2 and kept[1] > kept[0]
    return either[int(flipped)]


def _surroundings(values: Array, top: int, left: int, side: int) -> Array:
    """Return the mean of each channel, ``(C,)``, over the pixels of the image at most 2 pixels around a square."""
    rows = slice(max(top - RING, 0), top + side + RING)
    columns = slice(max(left - RING, 0), left + side + RING)
    inside = values[:, top : top + side, left : left + side]
    around = values[:, rows, columns]
    ring: Array = (around.sum((1, 2)) - inside.sum((1, 2))) / (around[0].size - inside[0].size)
    return ring


def _scratch(size: int, rng: np.random.Generator) -> Array:
    thickness = max(1.0, size / SCRATCH_RATIO)
    angle = rng.random() * math.pi
    direction = math.sin(angle), math.cos(angle)
    half = (size - thickness) / 2  # the ends are round
    rows, columns = _places(*(math.ceil(2 * half * abs(part) + thickness) for part in direction))
    along = np.clip(rows * direction[0] + columns * direction[1], -half, half)
    distance = np.hypot(rows - along * direction[0], columns - along * direction[1])
    return _smooth(thickness / 2 - distance)


def _disc(size: int, _rng: np.random.Generator) -> Array:
    return _smooth(size / 2 - np.hypot(*_places(size, size)))


def _stain(size: int, _rng: np.random.Generator) -> Array:
    """Return a Gaussian with half of its height at a radius of size / 2, which ends at twice that radius."""
    rows, columns = _places(2 * size - 1, 2 * size - 1)
    height = STAIN_EDGE ** ((rows**2 + columns**2) / size**2)
    stain: Array = np.maximum((height - STAIN_EDGE) / (1 - STAIN_EDGE), 0)
    return stain


def _square(size: int, _rng: np.random.Generator) -> Array:
    return np.ones((size, size))


def _places(height: int, width: int) -> tuple[Array, Array]:
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    return rows - (height - 1) / 2, columns - (width - 1) / 2


def _smooth(inside: Array) -> Array:
    """Return the covered share of pixels whose centres lie ``inside`` pixels inside of an edge."""
    share: Array = np.clip(inside + 0.5, 0, 1)
    return share


COVERS: dict[Shape, Callable[[int, np.random.Generator], Array]] = {
    "scratch": _scratch,
    "spot": _disc,
    "stain": _stain,
    "hole": _disc,
    "missing-part": _square,
}
"""For each shape, a function of size and generator that returns the covered share of each pixel of a box."""
