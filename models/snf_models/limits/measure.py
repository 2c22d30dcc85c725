"""Measurement of a detection limit: defects of several sizes are drawn into good images, and flags are counted."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snf_client.schemas.limits import (
    MIN_LIMIT_IMAGES,
    SHAPES,
    LimitCell,
    LimitCurve,
    LimitParameters,
    LimitRecord,
    Shape,
    UndamagedImages,
)
from snf_models.anomaly.exchangeability import clopper_pearson, false_alarm_interval
from snf_models.anomaly.reference_images import check_shape
from snf_models.disk import write_atomically
from snf_models.errors import DatasetUnfit, ImageError
from snf_models.evaluation.image_sets import random_rectangle
from snf_models.limits.card import FOUND_SHARE
from snf_models.limits.good_images import GoodImages
from snf_models.scorer import Scorer
from snf_runtime.anomaly.detection import Detector
from snf_runtime.images.batch import Batch
from snf_runtime.scoring.evidence import Evidence

log = logging.getLogger(__name__)

CONFIDENCE = 0.95
"""Confidence of the one-sided bound of the share of defects that are found."""
HOPELESS = 0.5
"""Smaller defects are left out once the upper bound of the found share is below this."""


def limit_cell(size: int, found: int, images: int) -> LimitCell:
    """Return the found share at one size, with confidence bounds."""
    lower, upper = clopper_pearson(found, images)
    return LimitCell(size=size, found=found, images=images, share=found / images, lower=lower, upper=upper)


def undamaged_images(flagged: int, images: int) -> UndamagedImages:
    """Return the flagged share of good images with a two-sided 95 % interval, None without images."""
    share = flagged / images if images else None
    interval = clopper_pearson(flagged, images, (1 + CONFIDENCE) / 2) if images else None
    return UndamagedImages(flagged=flagged, images=images, share=share, interval=interval)


def limit_curve(shape: Shape, contrast: int | None, cells: Sequence[LimitCell]) -> LimitCurve:
    """Return the least size from which on all lower bounds are at least 0.9, tests in fixed order at 5 % each."""
    limit: LimitCell | None = None
    rising = tuple(sorted(cells, key=lambda cell: cell.size))
    for cell in reversed(rising):
        if cell.lower < FOUND_SHARE:
            break
        limit = cell
    size, lower = (None, None) if limit is None else (limit.size, limit.lower)
    return LimitCurve(shape=shape, contrast=contrast, cells=rising, limit=size, lower=lower)


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

    @property
    def label(self) -> str:
        """The defect in words, such as ``spot, 64 grey levels, 6 pixels``."""
        contrast = "" if self.contrast is None else f", {self.contrast} grey levels"
        return f"{self.shape.replace('-', ' ')}{contrast}, {self.size} pixels"


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
    return np.maximum((height - STAIN_EDGE) / (1 - STAIN_EDGE), 0)


def _square(size: int, _rng: np.random.Generator) -> Array:
    return np.ones((size, size))


def _places(height: int, width: int) -> tuple[Array, Array]:
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    return rows - (height - 1) / 2, columns - (width - 1) / 2


def _smooth(inside: Array) -> Array:
    """Return the covered share of pixels whose centres lie ``inside`` pixels inside of an edge."""
    return np.clip(inside + 0.5, 0, 1)


COVERS: dict[Shape, Callable[[int, np.random.Generator], Array]] = {
    "scratch": _scratch,
    "spot": _disc,
    "stain": _stain,
    "hole": _disc,
    "missing-part": _square,
}
"""For each shape, a function of size and generator that returns the covered share of each pixel of a box."""


BATCH = 64
BATCH_BYTES = 32 * 2**20
"""Most images and bytes of a batch."""
UNDAMAGED = "without defects"

Progress = Callable[[str, int, int], None]
"""A function that is called with the defect in work, the images scored, and the most that may have to be scored."""


def measure_limits(
    scorer: Scorer,
    good: GoodImages,
    parameters: LimitParameters | None = None,
    *,
    progress: Progress = lambda _label, _done, _total: None,
    folder: Path | None = None,
    finished: Callable[[], None] = lambda: None,
    calibration: int | None = None,
    job: str | None = None,
) -> LimitRecord:
    """Measure the smallest size of simulated defects that a model finds in at least 90 % of images.

    There is a limit for each shape and contrast.

    Each image gets one defect; it is found if its p-value is at most alpha. Sizes are tried from the largest down,
    until hardly half are found. With fewer than 29 images, or if more of them are flagged without a defect than alpha
    explains, nothing is measured, and the record says why.

    Args:
        scorer: The model, with the calibration whose p-values count.
        good: The images that get the defects.
        parameters: Shapes, contrasts, false-alarm rate and seed. Of more than ``images`` images the first are taken.
        progress: Called before each size and after each batch; what it raises ends the work. The first call counts the
            images of the sizes that another run finished.
        folder: Where counts of finished sizes are kept. Another run with this folder does not repeat them.
        finished: Called when a size is finished and its count is stored.
        calibration: Number of the calibration, for the record.
        job: Id of the job, for the record.

    Raises:
        AlphaUnattainable: The calibration has too few images for the false-alarm rate.
        DatasetUnfit: The images have another shape than the model's, are too small, or have a size that the
            calibration is not for.
    """
    began, chosen, used = time.monotonic(), parameters or LimitParameters(), scorer.calibration
    if good.fold is not None:
        # The fits to the other folds have seen these images.
        used = replace(used, folds=(used.folds[good.fold],))
    alpha = used.check_alpha(chosen.alpha)
    images = min(len(good.pixels), chosen.images)
    if images and not scorer.preprocessing.tiled:
        check_shape(good.dataset, good.pixels[:1][0].shape, scorer.preprocessing)
    counter = _Counter(Detector(scorer.density, used), good, images, alpha, chosen.seed, progress, finished)
    height, width, digest = counter.survey()
    kinds = defect_kinds(chosen.shapes, chosen.contrasts)
    sizes = defect_sizes(height, width)
    if not sizes:
        raise DatasetUnfit(f"expected images of at least 4 pixels on each side for defects, got {height}x{width}")
    counter.resume(folder, _plan(scorer, digest, chosen.seed, alpha))
    counter.total = images * (1 + len(kinds) * len(sizes))
    undamaged = undamaged_images(counter.count(None), images)
    problem = limit_problem(good.dataset, undamaged, used.images, alpha)
    curves = []
    for kind, contrast in kinds if problem is None else []:
        cells: list[LimitCell] = []
        for size in reversed(sizes):
            if cells and cells[-1].upper < HOPELESS:
                counter.total -= images
            else:
                cells.append(limit_cell(size, counter.count(Defect(kind, size, contrast)), images))
        curves.append(limit_curve(kind, contrast, cells))
    counter.total = counter.done  # the last sizes may have been left out
    counter.report()
    return LimitRecord(
        created=datetime.now(UTC).replace(microsecond=0),
        job=job,
        weights_sha256=scorer.log_det_digest,
        calibration=calibration,
        calibration_images=used.images,
        smallest_p=used.smallest_p,
        alpha=alpha,
        dataset=good.dataset,
        dataset_digest=digest,
        part=good.part,
        images=images,
        image_shape=scorer.preprocessing.shape,
        seed=chosen.seed,
        shapes=chosen.shapes,
        contrasts=chosen.contrasts,
        sizes=sizes,
        undamaged=undamaged,
        curves=tuple(curves),
        not_determinable=problem,
        seconds=counter.seconds_before + time.monotonic() - began,
    )


def _plan(scorer: Scorer, digest: str, seed: int, alpha: float) -> str:
    """Return a digest of everything that the counts depend on."""
    summary = scorer.calibration_summary.model_dump_json()
    text = repr((scorer.log_det_digest, scorer.density.engine_name, summary, digest, seed, alpha))
    return hashlib.sha256(text.encode()).hexdigest()


def limit_problem(dataset: str, undamaged: UndamagedImages, calibration_images: int, alpha: float) -> str | None:
    """Return a text that says why no detection limit can be stated, or None if one can be."""
    if undamaged.images < MIN_LIMIT_IMAGES:
        return (
            f"{dataset} has {undamaged.images} good images for it, at least {MIN_LIMIT_IMAGES} are needed: if the "
            f"defects in all of {MIN_LIMIT_IMAGES} images are found, the share is at least 0.9, with 95 % confidence"
        )
    _, high = false_alarm_interval(calibration_images, undamaged.images, alpha)
    expected = round(high * undamaged.images)
    if undamaged.flagged > expected:
        return (
            f"{undamaged.flagged} of {undamaged.images} images of {dataset} are flagged without a defect, at most "
            f"{expected} are expected at alpha {alpha:g}: they are unlike the images of the calibration, so a defect "
            "in them proves nothing"
        )
    return None


FILE = "cells.json"


class _Counts(BaseModel):
    """Content of ``cells.json``: the flagged images of each defect whose size is finished."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    plan: str
    found: dict[str, int] = {}
    seconds: float = Field(0.0, ge=0, description="Time that the counts took.")


class _Counter:
    """Counter of flagged images, in batches that fit into memory; the counts of an earlier run are not repeated."""

    def __init__(
        self,
        detector: Detector,
        good: GoodImages,
        images: int,
        alpha: float,
        seed: int,
        progress: Progress,
        finished: Callable[[], None],
    ) -> None:
        self._detector, self._pixels, self._images = detector, good.pixels, images
        self._alpha, self._seed, self._progress, self._finished = alpha, seed, progress, finished
        # Images that are scored tile by tile may be large.
        most = 1 if detector.density.tiled else BATCH
        self._batch = max(1, min(most, BATCH_BYTES // math.prod(detector.density.image_shape)))
        self.done = self.total = 0
        self._label = UNDAMAGED

    def survey(self) -> tuple[int, int, str]:
        """Return the height and width of the model's images or, where images differ, what fits into all; and a digest.

        Raises ``DatasetUnfit`` for an image of a size that the calibration is not for.
        """
        shape = self._detector.density.image_shape
        _, height, width = shape
        content = hashlib.sha256(repr(shape).encode())
        for _, images in self._batches():
            for error in self._detector.size_errors(images).values():
                raise DatasetUnfit(error.detail)
            for image in images:
                if self._detector.density.tiled:
                    height, width = min(height, image.shape[1]), min(width, image.shape[2])
                    content.update(repr(image.shape).encode())
                content.update(np.ascontiguousarray(image).tobytes())
        return height, width, content.hexdigest()

    def resume(self, folder: Path | None, plan: str) -> None:
        """Take over the counts of an earlier run with the same plan; those of a damaged file are ignored."""
        self._path = None if folder is None else folder / FILE
        self._counts = _Counts(plan=plan)
        if self._path is not None and self._path.is_file():
            try:
                stored = _Counts.model_validate_json(self._path.read_bytes())
                self._counts = stored if stored.plan == plan else self._counts
            except ValidationError as error:
                log.warning("starting again, because %s is damaged: %s", FILE, error.errors()[0]["msg"])
        self.seconds_before, self._began = self._counts.seconds, time.monotonic()

    def count(self, defect: Defect | None) -> int:
        """Return how many images are flagged, each with its own defect or, for None, as they are."""
        label = UNDAMAGED if defect is None else defect.label
        known = self._counts.found.get(label)
        if known is not None:
            self.done += self._images
            return known
        self._label, found = label, 0
        # A first report after a batch would count images whose size is not finished as the work of an earlier run.
        self.report()
        for start, images in self._batches():
            found += self._flagged(images if defect is None else damaged_images(images, defect, self._seed, start))
            self.done += len(images)
            self.report()
        self._counts.found[label] = found
        self._counts.seconds = self.seconds_before + time.monotonic() - self._began
        if self._path is not None:
            write_atomically(self._path, self._counts.model_dump_json().encode())
        self._finished()
        return found

    def report(self) -> None:
        self._progress(self._label, self.done, self.total)

    def _batches(self) -> Iterator[tuple[int, Batch]]:
        for start in range(0, self._images, self._batch):
            yield start, self._pixels[start : min(start + self._batch, self._images)]

    def _flagged(self, images: Batch) -> int:
        scores = self._detector.score_each(images)
        # An image without a finite likelihood is not judged, so its defect is not found.
        evidence = [score.evidence for score in scores if not isinstance(score, ImageError)]
        if not evidence:
            return 0
        return int((self._detector.calibration.p_values(Evidence.join(evidence)) <= self._alpha).sum())


def damaged_images(images: Batch, defect: Defect, seed: int, first: int = 0) -> Batch:
    """Return copies with one defect each; ``first`` is the number of the first among all with this defect."""
    damaged = [
        add_defect(image, defect, defect_rng(seed, defect, index))[0] for index, image in enumerate(images, first)
    ]
    return np.stack(damaged) if isinstance(images, np.ndarray) else damaged
