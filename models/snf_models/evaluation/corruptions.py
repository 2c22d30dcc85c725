"""Simulated image faults of graded severity, the same in every evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from snf_runtime.images.batch import Batch

Array: TypeAlias = NDArray[np.float64]
Images: TypeAlias = NDArray[np.uint8]

Kind = Literal["noise", "brightness", "contrast", "blur", "shift", "rotation", "hole", "line"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GRADES: dict[Kind, tuple[float, ...]] = {
    "noise": (1, 2, 3, 6, 12),  # deviation, grey values
    "brightness": (1, 3, 6, 12, 24),  # added, grey values
    "contrast": (0.95, 0.9, 0.8, 0.65, 0.5),  # factor about the image's mean
    "blur": (0.4, 0.6, 0.8, 1.2, 2.0),  # deviation of the Gaussian, pixels
    "shift": (1, 2, 3, 4, 6),  # pixels, in a random direction
    "rotation": (5, 10, 20, 45, 90),  # degrees, either way
    "hole": (4, 6, 8, 12, 16),  # side of a square of zeros, pixels
    "line": (1, 2, 3, 4, 6),  # width of full rows or columns of zeros, pixels
}
"""Grades from hardly visible to gross; lengths of shift, hole and line are for images with sides of 28 to 32."""
SCALED: frozenset[Kind] = frozenset({"shift", "hole", "line"})
SIDE, MAX_UNSCALED = 28, 32
SEED = 0


@dataclass(frozen=True)
class Corruption:
    """A fault, with a level in the unit of :data:`GRADES`; ``str`` gives a name such as ``hole-8``."""

    kind: Kind
    level: float

    def __str__(self) -> str:
        return f"{self.kind}-{self.level:g}"


def corruptions(height: int, width: int) -> list[Corruption]:
    """Return the faults for a size of images. Lengths, but not blur, are scaled outside sides of 28 to 32.

    >>> [str(fault) for fault in corruptions(64, 64) if fault.kind == "hole"]
    ['hole-9', 'hole-14', 'hole-18', 'hole-27', 'hole-37']
    """
    side = min(height, width)
    factor = 1.0 if SIDE <= side <= MAX_UNSCALED else side / SIDE
    faults = []
    for kind, levels in GRADES.items():
        scaled = [max(1, round(level * factor)) if kind in SCALED else level for level in levels]
        faults += [Corruption(kind, level) for level in dict.fromkeys(scaled)]
    return faults


def corrupt(images: Images, corruption: Corruption, rng: np.random.Generator | None = None) -> Images:
    """Return damaged copies, uint8 ``(N, C, H, W)``. Random numbers are drawn image by image."""
    rng = np.random.default_rng(SEED) if rng is None else rng
    damaged = FAULTS[corruption.kind](images.astype(np.float64), corruption.level, rng)
    result: Images = np.clip(np.rint(damaged), 0, 255).astype(np.uint8)
    return result


def corrupt_chunks(chunks: Iterable[Batch], corruption: Corruption) -> Iterator[Batch]:
    """Yield damaged copies, which together equal :func:`corrupt` of all images."""
    rng = np.random.default_rng(SEED)
    for images in chunks:
        if isinstance(images, np.ndarray):
            yield corrupt(images, corruption, rng)
        else:
            yield [corrupt(image[None], corruption, rng)[0] for image in images]


def _noise(x: Array, level: float, rng: np.random.Generator) -> Array:
    return x + rng.normal(0, level, x.shape)


def _brightness(x: Array, level: float, _rng: np.random.Generator) -> Array:
    return x + level


def _contrast(x: Array, level: float, _rng: np.random.Generator) -> Array:
    mean: Array = x.mean((1, 2, 3), keepdims=True)
    return (x - mean) * level + mean


def _blur(x: Array, level: float, _rng: np.random.Generator) -> Array:
    blurred: Array = ndimage.gaussian_filter(x, (0, 0, level, level))
    return blurred


def _shift(x: Array, level: float, rng: np.random.Generator) -> Array:
    for image in x:
        angle = rng.random() * 2 * math.pi
        offset = (0, level * math.sin(angle), level * math.cos(angle))
        image[:] = ndimage.shift(image, offset, order=1, mode="nearest")
    return x


def _rotation(x: Array, level: float, rng: np.random.Generator) -> Array:
    for image in x:
        angle = level * rng.choice([-1, 1])
        image[:] = ndimage.rotate(image, angle, axes=(1, 2), reshape=False, order=1, mode="nearest")
    return x


def _hole(x: Array, level: float, rng: np.random.Generator) -> Array:
    side = int(level)
    for image in x:
        top, left = random_rectangle(image, side, side, rng)
        image[:, top : top + side, left : left + side] = 0
    return x


def _line(x: Array, level: float, rng: np.random.Generator) -> Array:
    width = int(level)
    for image in x:
        if rng.random() < 0.5:
            top, _ = random_rectangle(image, width, image.shape[2], rng)
            image[:, top : top + width] = 0
        else:
            _, left = random_rectangle(image, image.shape[1], width, rng)
            image[:, :, left : left + width] = 0
    return x


FAULTS: dict[Kind, Callable[[Array, float, np.random.Generator], Array]] = {
    "noise": _noise,
    "brightness": _brightness,
    "contrast": _contrast,
    "blur": _blur,
    "shift": _shift,
    "rotation": _rotation,
    "hole": _hole,
    "line": _line,
}


def random_rectangle(image: Array, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """Choose a rectangle as bright as the image or brighter: a hole in a dark background would be no fault."""
    grey = image.mean(0)
    height, width = min(height, grey.shape[0]), min(width, grey.shape[1])
    sums = np.pad(grey.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    means = inside / (height * width)
    bright = np.argwhere(means >= grey.mean())
    if not len(bright):
        bright = np.argwhere(means == means.max())[:1]
    top, left = bright[rng.integers(len(bright))]
    return int(top), int(left)
