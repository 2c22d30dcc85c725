"""Which images of which dataset an evaluation looks at, read in batches as the model sees them. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.datasets.builtin import builtin_file, load_builtin
from models.datasets.storage import ORIGINALS, Storage
from models.datasets.store import DatasetStore
from models.errors import DatasetNotFound, DatasetUnfit, ImageError
from models.evaluation.checks import adapted, check_anomalous, check_normals, not_found
from models.evaluation.corruptions import Corruption, corrupt_chunks
from models.evaluation.parameters import EvaluationParameters
from models.images.preprocessing import Preprocessing, conform, conform_pixels
from models.training.config import TrainingConfig

Images: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = NDArray[np.int64]

BATCH = 250
BATCH_BYTES = 16 * 2**20
"""Images read at once: so many, or so many bytes of them where they are large."""
FITTED = 2000
FITTED_BYTES = 256 * 2**20
"""Images that baselines are fitted to, at most; all of them are in memory together."""
SEED = 0
PARTS_BUILTIN = (
    "baselines are fitted to its statistics part, thresholds of single scores come from its calibration part, and its "
    "test part is tested"
)
PARTS_STORED = (
    "split at random, seeded: baselines are fitted to a quarter, thresholds of single scores come from another, and "
    "the other half is tested"
)


class ImageSet(Protocol):
    """Images ``(C, H, W)`` in a fixed order; ``names`` are their labels for people."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]: ...

    def batches(self) -> Iterator[Images]:
        """Yield all images, ``(N, C, H, W)`` uint8, some at a time. Raises ``DatasetUnfit``."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """Images of a built-in dataset."""

    dataset: str
    part: str
    pixels: Images
    rows: Rows
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> Sequence[str]:
        """The part and the place in it."""
        return [f"{self.part}/{row:05d}" for row in self.rows]

    def batches(self) -> Iterator[Images]:
        """Yield the chosen images."""
        for rows in _in_batches(self.rows, self.preprocessing):
            chosen = self.pixels[rows]
            if chosen.shape[1:] == self.preprocessing.shape:
                yield np.ascontiguousarray(chosen)
                continue
            try:
                yield np.stack([conform_pixels(image, self.preprocessing).pixels for image in chosen])
            except ImageError as error:
                raise _unfit(self.dataset, error) from error


@dataclass(frozen=True)
class StoredImages:
    """Images of a user's dataset, decoded when they are read; ``rows`` are places in the order of their paths."""

    dataset: str
    folder: Path
    rows: Rows
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> Sequence[str]:
        """The paths."""
        with Storage.open(self.folder) as storage:
            paths = [stored.path for stored in storage.images("path")]
        return [paths[row] for row in self.rows]

    def batches(self) -> Iterator[Images]:
        """Decode the chosen images. Raises also ``DatasetNotFound`` where it was deleted meanwhile."""
        try:
            with Storage.open(self.folder) as storage:
                stored = list(storage.images("path"))
                for rows in _in_batches(self.rows, self.preprocessing):
                    chosen = [storage.image(stored[row]) for row in rows]
                    yield np.stack([conform(image, self.preprocessing).pixels for image in chosen])
        except ImageError as error:
            raise _unfit(self.dataset, error) from error
        except FileNotFoundError as error:
            raise DatasetNotFound(f"dataset {self.dataset!r} was deleted meanwhile") from error


@dataclass(frozen=True)
class CorruptedImages:
    """Damaged copies of the images of another set; ``rows`` are those taken."""

    source: ImageSet
    rows: Rows
    corruption: Corruption

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> Sequence[str]:
        """The names of the images that were damaged."""
        names = self.source.names
        return [names[row] for row in self.rows]

    def batches(self) -> Iterator[Images]:
        """Yield the damaged copies, in batches that may be smaller than others."""
        return corrupt_chunks(self._chosen(), self.corruption)

    def _chosen(self) -> Iterator[Images]:
        first = 0
        for images in self.source.batches():
            inside = self.rows[(self.rows >= first) & (self.rows < first + len(images))] - first
            if len(inside):
                yield images[inside]
            first += len(images)


@dataclass(frozen=True)
class Normals:
    """Normal images in three disjoint parts: baselines are fitted to ``fit``, thresholds of single scores come from
    ``thresholds``, and ``test`` is told from anomalous images. ``parts`` says in words which are which."""

    fit: ImageSet
    thresholds: ImageSet
    test: ImageSet
    parts: str


@dataclass(frozen=True)
class Datasets:
    """Where datasets are looked for, and how their images are brought to the model's shape.

    ``used``: the datasets that the model was trained and calibrated on; ``own``: the model's preprocessing.
    """

    used: tuple[str, ...]
    own: Preprocessing
    parameters: EvaluationParameters
    data_dir: Path | None
    store: DatasetStore | None

    @property
    def images(self) -> int:
        """Most images of a set."""
        return self.parameters.images

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to images."""
        return adapted(self.own, self.parameters.adapt)

    def normals(self, name: str) -> Normals:
        """Return the normal images of a dataset. Raises ``DatasetNotFound``, ``DatasetUnfit``."""
        check_normals(name, self.used, self.own, self.parameters.adapt, self.data_dir, self.store)
        path = builtin_file(name, self.data_dir)
        if path is not None:
            found = load_builtin(name, path, TrainingConfig())
            chosen = [
                ArrayImages(name, part, pixels, evenly(len(pixels), min(most, self.images)), self.preprocessing)
                for part, pixels, most in (
                    ("statistics", found.statistics, self._fitted),
                    ("calibration", found.calibration, self.images),
                    ("test", found.test, self.images),
                )
            ]
            return Normals(chosen[0], chosen[1], chosen[2], PARTS_BUILTIN)
        store = self._stored(name)
        shuffled = np.random.default_rng(SEED).permutation(store.report(name).images)
        half = len(shuffled) // 2
        pieces = (
            np.sort(shuffled[: half // 2][: self._fitted]),
            np.sort(shuffled[half // 2 : half][: self.images]),
            np.sort(shuffled[half:][: self.images]),
        )
        folder = store.root / name
        fit, thresholds, test = (StoredImages(name, folder, piece, self.preprocessing) for piece in pieces)
        return Normals(fit, thresholds, test, PARTS_STORED)

    def anomalous(self, name: str, normal: str) -> ImageSet:
        """Return the test part of a built-in dataset, all images of a user's. Raises what :meth:`normals` does."""
        check_anomalous(name, normal, self.own, self.parameters.adapt, self.data_dir, self.store)
        path = builtin_file(name, self.data_dir)
        if path is not None:
            test = load_builtin(name, path, TrainingConfig()).test
            return ArrayImages(name, "test", test, evenly(len(test), self.images), self.preprocessing)
        store = self._stored(name)
        rows = evenly(store.report(name).images, self.images)
        return StoredImages(name, store.root / name, rows, self.preprocessing)

    def stamp(self, name: str) -> str:
        """Return what tells a dataset from another one that gets its name later. Raises ``DatasetNotFound``."""
        path = builtin_file(name, self.data_dir)
        try:
            found = (path or self._stored(name).root / name / ORIGINALS).stat()
        except OSError as error:
            raise DatasetNotFound(f"dataset {name!r} was deleted meanwhile") from error
        return f"{found.st_size} bytes, {found.st_mtime_ns} ns"

    @property
    def _fitted(self) -> int:
        return max(1, min(FITTED, FITTED_BYTES // math.prod(self.preprocessing.shape)))

    def _stored(self, name: str) -> DatasetStore:
        if self.store is None:
            raise not_found(name, self.data_dir, self.store)
        return self.store


def evenly(count: int, most: int) -> Rows:
    """Return at most ``most`` of ``count`` places, evenly spread.

    >>> evenly(10, 4).tolist(), evenly(3, 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64)


def _in_batches(rows: Rows, preprocessing: Preprocessing) -> Iterator[Rows]:
    size = max(1, min(BATCH, BATCH_BYTES // math.prod(preprocessing.shape)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _unfit(dataset: str, error: ImageError) -> DatasetUnfit:
    return DatasetUnfit(f"{dataset}: {error.title}: {error.detail}; adapt=true converts size and colour")
