"""Sets of images for an evaluation, read with the preprocessing of the model, and simulated faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.training import TrainingConfig
from snf_models.anomaly.reference_images import evenly_spaced
from snf_models.datasets.image_source import StoredImages, file_stamp
from snf_models.datasets.storage import INDEX
from snf_models.datasets.store import DatasetStore, builtin_file, check_stored, load_builtin
from snf_models.errors import DatasetNotFound, DatasetUnfit, ImageError
from snf_models.evaluation.checks import adapted, check_anomalous, check_normals
from snf_runtime.images.batch import Batch, NamedImage, batch_of, in_batches, stacked
from snf_runtime.images.preprocessing import DecodedImage, Pixels, Preprocessing, as_image, conform_pixels

Array: TypeAlias = NDArray[np.float64]

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


def corrupt(images: Batch, corruption: Corruption, rng: np.random.Generator | None = None) -> Batch:
    """Return damaged copies, uint8 ``(N, C, H, W)`` or ``(C, H, W)`` each. Random numbers are drawn image by image."""
    rng = np.random.default_rng(SEED) if rng is None else rng
    damaged = [FAULTS[corruption.kind](image.astype(np.float64), corruption.level, rng) for image in images]
    rounded = [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in damaged]
    return np.stack(rounded) if isinstance(images, np.ndarray) else rounded


def corrupt_chunks(chunks: Iterable[Batch], corruption: Corruption) -> Iterator[Batch]:
    """Yield damaged copies, which together equal :func:`corrupt` of all images."""
    rng = np.random.default_rng(SEED)
    return (corrupt(images, corruption, rng) for images in chunks)


def _shift(x: Array, level: float, rng: np.random.Generator) -> Array:
    angle = rng.random() * 2 * math.pi
    offset = (0, level * math.sin(angle), level * math.cos(angle))
    return np.asarray(ndimage.shift(x, offset, order=1, mode="nearest"))


def _rotation(x: Array, level: float, rng: np.random.Generator) -> Array:
    angle = level * rng.choice([-1, 1])
    return np.asarray(ndimage.rotate(x, angle, axes=(1, 2), reshape=False, order=1, mode="nearest"))


def _hole(x: Array, height: float, rng: np.random.Generator, width: float | None = None) -> Array:
    rows, columns = int(height), int(height if width is None else width)
    top, left = random_rectangle(x, rows, columns, rng)
    x[:, top : top + rows, left : left + columns] = 0
    return x


def _line(x: Array, level: float, rng: np.random.Generator) -> Array:
    height, width = x.shape[1:]
    return _hole(x, level, rng, width) if rng.random() < 0.5 else _hole(x, height, rng, level)


FAULTS: dict[Kind, Callable[[Array, float, np.random.Generator], Array]] = {
    "noise": lambda x, level, rng: x + rng.normal(0, level, x.shape),
    "brightness": lambda x, level, _rng: x + level,
    "contrast": lambda x, level, _rng: (x - x.mean()) * level + x.mean(),
    "blur": lambda x, level, _rng: np.asarray(ndimage.gaussian_filter(x, (0, level, level))),
    "shift": _shift,
    "rotation": _rotation,
    "hole": _hole,
    "line": _line,
}
"""For each fault, a function of an image ``(C, H, W)``, its level and a generator."""


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


Images: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = NDArray[np.intp]

BATCH = 250
BATCH_BYTES = 16 * 2**20
"""Most images and bytes of a batch."""
FITTED = 2000
FITTED_BYTES = 256 * 2**20
"""Most images, and bytes of them, to which baselines are fitted; all are in memory together."""
SEED = 0
PARTS_BUILTIN = (
    "baselines are fitted to its statistics part, thresholds of single scores come from its calibration part, and its "
    "test part is tested"
)
PARTS_STORED = (
    "split at random, seeded: baselines are fitted to a quarter, thresholds of single scores come from another, and "
    "the other half is tested"
)


@dataclass(frozen=True)
class ArrayImages:
    """Chosen images of one part of a built-in dataset."""

    part: str
    pixels: Images
    rows: Rows
    preprocessing: Preprocessing

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """Names such as ``test/00017``."""
        return [f"{self.part}/{row:05d}" for row in self.rows]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width in pixels before the preprocessing, ``(count, 2)``."""
        return np.tile(np.array(self.pixels.shape[2:], dtype=np.int64), (self.count, 1))

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        for row in self.rows[start:stop].tolist():
            name, image = f"{self.part}/{row:05d}", self.pixels[row]
            try:
                exact = image.shape == self.preprocessing.shape
                yield name, DecodedImage(image, None) if exact else conform_pixels(image, self.preprocessing)
            except ImageError as error:
                yield name, error


@dataclass(frozen=True)
class ImageSet:
    """Images of one dataset, with a simulated fault if any."""

    dataset: str
    source: ArrayImages | StoredImages
    preprocessing: Preprocessing
    corruption: Corruption | None = None

    def __len__(self) -> int:
        return self.source.count

    @property
    def names(self) -> Sequence[str]:
        return self.source.names

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Height and width in pixels before the preprocessing, ``(n, 2)``."""
        return self.source.sizes

    def file_size(self, place: int) -> tuple[int, int] | None:
        """Return width and height of the upright file; None if there is none, or it is unusable."""
        _, image = next(self.source.read(place, place + 1))
        return None if isinstance(image, ImageError) else image.source_size

    def chosen(self, rows: Rows, corruption: Corruption | None = None) -> ImageSet:
        """Choose images by rising indices, with a fault that is applied when they are read."""
        if isinstance(self.source, ArrayImages):
            source: ArrayImages | StoredImages = replace(self.source, rows=self.source.rows[rows])
        else:
            source = self.source.chosen(rows.tolist())
        return replace(self, source=source, corruption=corruption)

    def batches(self) -> Iterator[Batch]:
        """Yield at most 250 images at once, with the fault; raise ``DatasetUnfit``, ``DatasetNotFound``."""
        batches = (batch_of([image.pixels for image in batch], self.preprocessing) for batch in self.decoded())
        return batches if self.corruption is None else corrupt_chunks(batches, self.corruption)

    def decoded(self) -> Iterator[list[DecodedImage]]:
        """Yield images with the size of their files, without the fault; raise as :meth:`batches`."""
        yield from in_batches(self._images(), BATCH, BATCH_BYTES, lambda image: image.pixels.nbytes)

    def _images(self) -> Iterator[DecodedImage]:
        for _, image in self.source.read(0, len(self)):
            if isinstance(image, ImageError):
                detail = f"{image.title}: {image.detail}; the option adapt converts size and colour"
                raise DatasetUnfit(f"{self.dataset}: {detail}") from image
            yield image


@dataclass(frozen=True)
class Normals:
    """Normal images in three disjoint parts."""

    fit: ImageSet  # for baselines
    thresholds: ImageSet  # for single scores
    test: ImageSet  # compared with anomalous images
    parts: str  # a description for the report


@dataclass(frozen=True)
class ImageSets:
    """Reader that checks datasets and selects their images."""

    used: tuple[str, ...]  # datasets of training and calibration
    own: Preprocessing  # of the model
    parameters: EvaluationParameters
    data_dir: Path | None
    store: DatasetStore | None

    @property
    def preprocessing(self) -> Preprocessing:
        return adapted(self.own, self.parameters.adapt)

    def normals(self, name: str) -> Normals:
        """Return the normal images in three parts; raise ``DatasetNotFound``, ``DatasetUnfit``."""
        check_normals(name, self.used, self.own, self.parameters.adapt, self.data_dir, self.store)
        most = self.parameters.images
        fitted = max(1, min(FITTED, FITTED_BYTES // math.prod(self.preprocessing.shape)))
        path = builtin_file(name, self.data_dir)
        if path is not None:
            dataset = load_builtin(name, path, TrainingConfig())
            return Normals(
                self._array_set(name, "statistics", dataset.statistics, min(fitted, most)),
                self._array_set(name, "calibration", dataset.calibration, most),
                self._array_set(name, "test", dataset.test, most),
                PARTS_BUILTIN,
            )
        store = self._stored(name)
        shuffled = np.random.default_rng(SEED).permutation(store.report(name).images)
        half = len(shuffled) // 2
        pieces = shuffled[: half // 2][: min(fitted, most)], shuffled[half // 2 : half][:most], shuffled[half:][:most]
        fit, thresholds, test = (self._stored_set(store, name, np.sort(piece)) for piece in pieces)
        return Normals(fit, thresholds, test, PARTS_STORED)

    def anomalous(self, name: str, normal: str) -> ImageSet:
        """Return evenly spaced images, the test part of a built-in dataset; raise as :meth:`normals`."""
        check_anomalous(name, normal, self.own, self.parameters.adapt, self.data_dir, self.store)
        path = builtin_file(name, self.data_dir)
        if path is not None:
            return self._array_set(
                name, "test", load_builtin(name, path, TrainingConfig()).test, self.parameters.images
            )
        store = self._stored(name)
        return self._stored_set(store, name, evenly_spaced(store.report(name).images, self.parameters.images))

    def stamp(self, name: str) -> str:
        """Return a text that changes when the dataset is replaced; raise ``DatasetNotFound``."""
        path = builtin_file(name, self.data_dir)
        stamp = file_stamp(path or self._stored(name).root / name / INDEX)
        if stamp is None:
            raise DatasetNotFound(f"dataset {name!r} was deleted meanwhile")
        return "{} bytes, {} ns".format(*stamp)

    def _array_set(self, name: str, part: str, pixels: Batch, most: int) -> ImageSet:
        source = ArrayImages(part, stacked(pixels), evenly_spaced(len(pixels), most), self.preprocessing)
        return ImageSet(name, source, self.preprocessing)

    def _stored_set(self, store: DatasetStore, name: str, rows: Rows) -> ImageSet:
        source = StoredImages(store, name, self.preprocessing, "path", rows.tolist())
        return ImageSet(name, source, self.preprocessing)

    def _stored(self, name: str) -> DatasetStore:
        return check_stored(name, self.data_dir, self.store)


def pictures(images: Batch, side: int) -> Pixels:
    """Return images as one array ``(N, C, H, W)``; those of a model of tiles are resized to squares first."""
    if isinstance(images, np.ndarray):
        return images
    squares = [np.asarray(as_image(image).resize((side, side), Image.Resampling.BOX)) for image in images]
    return np.stack([square.reshape(side, side, -1).transpose(2, 0, 1) for square in squares])
