"""Simulated image faults of graded severity, such as noise, blur and holes.

The faults are the same in every evaluation.
"""

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
    """A simulated image fault: its kind and its severity, for example a hole with a side of 8 pixels.

    The unit of the severity is that in :data:`GRADES`; ``str`` gives a name such as ``hole-8``.
    """

    kind: Kind
    level: float

    def __str__(self) -> str:
        return f"{self.kind}-{self.level:g}"


def corruptions(height: int, width: int) -> list[Corruption]:
    """Return the simulated faults for images of ``height`` x ``width`` pixels: 8 kinds, each from mild to severe.

    There are up to 5 severities of each kind. For sides outside 28 to 32, lengths of shift, hole and line are scaled by
    side / 28 and rounded to at least one pixel, and equal grades are merged. Blur stays in pixels, as it belongs to the
    optics.

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
    """Return copies of images damaged by a simulated fault.

    The images are uint8 ``(N, C, H, W)``; values are clipped to 0..255.

    The faults are x + N(0, s), x + b, m + f (x - m) with m the mean of the image, a Gaussian filter, a shift by
    (l sin a, l cos a), a rotation (order 1, the edge repeated), and zeros in a square or in full rows or columns.
    Random numbers are drawn image after image, so that chunks with the same generator equal the whole.

    Args:
        images: The images, uint8 ``(N, C, H, W)``.
        corruption: The fault.
        rng: The random generator; by default one seeded with 0.
    """
    rng = np.random.default_rng(SEED) if rng is None else rng
    damaged = FAULTS[corruption.kind](images.astype(np.float64), corruption.level, rng)
    result: Images = np.clip(np.rint(damaged), 0, 255).astype(np.uint8)
    return result


def corrupt_chunks(chunks: Iterable[Batch], corruption: Corruption) -> Iterator[Batch]:
    """Yield a damaged copy of each batch of images, with the same simulated fault in all.

    The result does not depend on the size of the batches: together they equal :func:`corrupt` of all images.
    """
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
    """Choose a random rectangle of a given size on a bright part of an image, for a simulated fault.

    Returns its top row and left column in pixels. The image is ``(C, H, W)``.

    All rectangles with at least the mean intensity of the image are equally likely; without any, the brightest is
    taken. A hole in the dark background would not be a fault. A rectangle larger than the image is cut to its size:
    images of a model of tiles may be smaller than a tile, by which faults are scaled.
    """
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
