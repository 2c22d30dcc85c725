"""Selection of images to train, fit and calibrate on, and copies among them; free of torch."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_client.schemas.training import ImageOptions
from snf_models.artifacts.manifest import Manifest
from snf_models.datasets import Dataset, DatasetSummary, Images
from snf_models.errors import DatasetUnfit
from snf_models.flows.architecture import Architecture, FeatureArchitecture
from snf_runtime.images.batch import TilePlan, size_of, tile_plan
from snf_runtime.images.preprocessing import Pixels, Preprocessing, as_image

MIN_REFERENCE = 20
SEED = 0
MAX_EVIDENCE_BYTES = 2**30  # most bytes of the evidence of a part: where images have many tiles, fewer images are taken
BYTES_OF_PLACE = 4  # bytes of the evidence of a place of a tile, in float32
MAX_STATISTICS, MAX_CALIBRATION = 5_000, 10_000
"""Most images of each part, evenly spaced: more would change only the last digit of a p-value."""


class ImageRows(Protocol):
    """Images, uint8 ``(C, H, W)`` each, that are read by slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Images: ...


@dataclass(frozen=True)
class ReferenceImages:
    """Normal images to calibrate on: two sets, to fit to and to rank among, or one set with folds for both."""

    dataset: str
    digest: str
    statistics: ImageRows  # fitted to; all images where there are folds
    calibration: ImageRows  # ranked among; empty where there are folds
    folds: NDArray[np.int8] | None = None
    suspect_share: float = 0.0

    def __len__(self) -> int:
        return len(self.statistics) + len(self.calibration)


def evenly_spaced(images: int, most: int) -> NDArray[np.intp]:
    """Return the indices of at most ``most`` evenly spaced images out of ``images``, in rising order."""
    return np.linspace(0, images - 1, min(most, images)).round().astype(np.intp)


class SelectedImages:
    """Images of several parts, chosen by their numbers among all."""

    def __init__(self, parts: Sequence[ImageRows], numbers: NDArray[np.intp]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: slice, /) -> Images:
        numbers = self._numbers[rows]
        arrays = [part for part in self._parts if isinstance(part, np.ndarray)]
        if len(arrays) < len(self._parts):
            return [self._image(number) for number in numbers.tolist()]
        images = np.empty((len(numbers), *arrays[0].shape[1:]), dtype=np.uint8)
        for part, end in zip(arrays, self._ends, strict=True):
            inside = (numbers >= end - len(part)) & (numbers < end)
            images[inside] = part[numbers[inside] - (end - len(part))]
        return images

    def _image(self, number: int) -> Pixels:
        part = bisect_right(self._ends, number)
        first = number - self._ends[part] + len(self._parts[part])
        return self._parts[part][first : first + 1][0]


class EvenlySpaced(SelectedImages):
    """At most ``most`` evenly spaced images, in a seeded order or, as the blocks of a calibration need, their own."""

    def __init__(self, parts: Sequence[ImageRows], most: int, *, shuffled: bool = True) -> None:
        numbers = evenly_spaced(sum(map(len, parts)), most)
        super().__init__(parts, np.random.default_rng(SEED).permutation(numbers) if shuffled else numbers)


def every_image(dataset: Dataset) -> ImageRows:
    """Return the images of all parts but the test images."""
    parts = dataset.train, dataset.statistics, dataset.calibration
    return SelectedImages(parts, np.arange(sum(map(len, parts))))


def plans_of(images: ImageRows, architecture: FeatureArchitecture) -> tuple[TilePlan, ...]:
    """Return the tiles of each image, without loading mapped pixels."""
    side, stride = architecture.height, architecture.height // architecture.rows
    each = (images[number : number + 1][0] for number in range(len(images)))
    return tuple(tile_plan(*size_of(image), side, stride) for image in each)


def as_seen(preprocessing: Preprocessing) -> ImageOptions:
    size = (preprocessing.height, preprocessing.width)
    return ImageOptions(
        image_size=size, fit=preprocessing.fit, colour=preprocessing.colour, levels=preprocessing.levels
    )


def reference_of(dataset: Dataset, manifest: Manifest) -> ReferenceImages:
    """Return the parts that training held out or, of another dataset, all; ``DatasetUnfit`` if fewer than 20."""
    check_shape(dataset.name, dataset.image_shape, manifest.preprocessing)
    own = dataset.digest == manifest.training.dataset_digest
    if own:
        check_held_out(dataset.name, manifest)
    if own and dataset.folds is not None:
        parts: tuple[ImageRows, ImageRows] = dataset.statistics, dataset.calibration
    elif own:
        parts = _parts([dataset.statistics], [dataset.calibration], manifest)
    else:
        parts = _parts([dataset.train], [dataset.statistics, dataset.calibration], manifest)
    reference = ReferenceImages(
        dataset.name,
        dataset.digest,
        *parts,
        folds=dataset.folds if own else None,
        suspect_share=manifest.calibration.suspect_share if own else 0.0,
    )
    check_count(dataset.name, len(reference), own=own)
    return reference


def _parts(
    statistics: Sequence[Images], calibration: Sequence[Images], manifest: Manifest
) -> tuple[ImageRows, ImageRows]:
    most = (
        min(limit, sum(images_in_memory(part, manifest.architecture) for part in parts))
        for parts, limit in ((statistics, MAX_STATISTICS), (calibration, MAX_CALIBRATION))
    )
    return EvenlySpaced(statistics, next(most), shuffled=False), EvenlySpaced(calibration, next(most), shuffled=False)


def images_in_memory(images: Images, architecture: Architecture) -> int:
    """Return how many images fit into 1 GiB of evidence, at least 20 if there are so many."""
    needed = evidence_bytes(images, architecture)
    if needed <= MAX_EVIDENCE_BYTES:
        return len(images)
    return min(len(images), max(MIN_REFERENCE, len(images) * MAX_EVIDENCE_BYTES // needed))


def evidence_bytes(images: ImageRows, architecture: Architecture, fits: int | None = None) -> int:
    """Return the bytes of the images' evidence, 0 for a model with pixels; ``fits`` None is the architecture's."""
    if not isinstance(architecture, FeatureArchitecture):
        return 0
    places = architecture.rows * architecture.columns * (fits or len(architecture.grids))
    if not architecture.tiled:
        return 2 * BYTES_OF_PLACE * places * len(images)  # in float64
    return BYTES_OF_PLACE * places * sum(map(len, plans_of(images, architecture)))


def check_summary(name: str, summary: DatasetSummary, manifest: Manifest) -> None:
    """Raise ``DatasetUnfit`` for another shape, fewer than 20 held-out images, or a model fitted to all."""
    check_shape(name, summary.image_shape, manifest.preprocessing)
    own = name == manifest.training.dataset
    if own:
        check_held_out(name, manifest)
    held_out = summary.statistics + summary.calibration
    check_count(name, held_out if own else summary.train + held_out, own=own)


def folds_digest(folds: NDArray[np.integer]) -> str:
    return hashlib.sha256(folds.astype(np.int8).tobytes()).hexdigest()


def is_in_folds(manifest: Manifest) -> bool:
    """Return whether a model was fitted to all images, and once more without each of several folds of them."""
    fit = manifest.training.feature_fit
    return fit is not None and fit.fits > 1


def check_held_out(name: str, manifest: Manifest) -> None:
    if is_in_folds(manifest):
        raise DatasetUnfit(
            f"the model was fitted to all images of {name}, so only the calibration that came with it can rank them: "
            "choose other images"
        )


def check_shape(name: str, shape: tuple[int, int, int], preprocessing: Preprocessing) -> None:
    if shape != preprocessing.shape:
        raise DatasetUnfit(
            f"the images of {name} are {_text(shape)}, this model takes {_text(preprocessing.shape)} "
            "(channels x height x width)"
        )


def check_count(name: str, images: int, *, own: bool) -> None:
    """Raise ``DatasetUnfit`` for fewer than 20 images; ``own``: of the model's training dataset."""
    if images < MIN_REFERENCE:
        left = "images that training left out" if own else "images to calibrate on"
        raise DatasetUnfit(f"{name} has {images} {left}, at least {MIN_REFERENCE} are needed")


def _text(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


SIDE = 32  # side of the grey pictures that are compared, in pixels
NEAR = 0.07
"""Largest distance, as a share of the median; hashes of 64 bits confuse one pair of digits in 400 within 3 bits."""
FLAT = 1.0  # standard deviation, in grey levels, up to which a picture shows too little to be compared
PAIRS = 5000
MAX_COMPARED = 20_000
"""Most images among which near copies are looked for: each is compared with each, and 4 KB of each are held."""
BATCH = 256


def first_copies(*parts: ImageRows) -> NDArray[np.intp]:
    """Return the first image that each is a copy of; beyond ``MAX_COMPARED`` images only equal pixels count."""
    pictures, exact = _pictures(parts)
    if len(exact) > MAX_COMPARED:
        return np.array(exact, dtype=np.intp)
    first = np.arange(len(exact))
    limit = NEAR * _median_distance(pictures)
    for start in range(0, len(exact), BATCH):
        block = pictures[start : start + BATCH]
        # Pictures have norm 1, or 0 where they are flat: these are far from all.
        near = np.asarray(2 - 2 * block @ pictures[: start + len(block)].T <= limit**2)
        for index, of_image in enumerate(near, start):
            # An image joins the first image of a group, not any member: a chain of small steps is no copy.
            earlier = [exact[index], *np.flatnonzero(of_image[:index]).tolist()]
            first[index] = next((other for other in sorted(earlier) if other < index and first[other] == other), index)
    return first


def one_fold_for_copies(folds: NDArray[np.integer], first: NDArray[np.intp]) -> NDArray[np.int8]:
    """Return folds with copies in one fold, or ``folds`` where fewer than two would be left."""
    used, together = np.unique(folds[first], return_inverse=True)
    return together.astype(np.int8) if len(used) > 1 else folds.astype(np.int8)


def _pictures(parts: tuple[ImageRows, ...]) -> tuple[NDArray[np.float32], list[int]]:
    """Return pictures of the images, ``(n, 1024)``, and for each the index of the first with equal pixels."""
    pictures: list[NDArray[np.float32]] = []
    exact: list[int] = []
    known: dict[bytes, int] = {}
    compared = sum(map(len, parts)) <= MAX_COMPARED
    for part in parts:
        for start in range(0, len(part), BATCH):
            for image in part[start : start + BATCH]:
                digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
                exact.append(known.setdefault(digest, len(exact)))
                if not compared:
                    continue
                small = as_image(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                picture = np.asarray(small, dtype=np.float32).ravel()
                picture = picture - picture.mean()
                spread = float(picture.std())
                pictures.append(picture / (SIDE * spread) if spread > FLAT else np.zeros_like(picture))
    return np.stack(pictures) if pictures else np.zeros((0, SIDE * SIDE), np.float32), exact


def _median_distance(pictures: NDArray[np.float32]) -> float:
    shown = pictures[pictures.any(1)]
    if len(shown) < 2:
        return 0.0
    left, right = np.random.default_rng(SEED).integers(0, len(shown), (2, PAIRS))
    different = left != right
    return float(np.median(np.linalg.norm(shown[left[different]] - shown[right[different]], axis=1)))
