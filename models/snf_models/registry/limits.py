"""Detection limits, the smallest artificial defects that a model reliably finds, and their store. Free of torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from snf_models.artifacts.manifest import file_label
from snf_models.disk import locked, new_folder, remove_leftovers
from snf_models.errors import ArtifactError, LimitNotFound
from snf_models.naming import is_version

Shape = Literal["scratch", "spot", "stain", "hole", "missing-part"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
GRADED: frozenset[Shape] = frozenset({"scratch", "spot", "stain"})
"""Shapes that have a contrast; a hole is black, and a missing part has the colour of its surroundings."""
CONTRASTS = (32, 64, 128)
FOUND_SHARE, CONFIDENCE = 0.9, 0.95
"""The share of defects that must be found, and the confidence of the one-sided bound that it is."""
MIN_LIMIT_IMAGES = 29
"""Fewest images that can show a limit: if all defects in n images are found, the bound is 0.05^(1/n)."""


class _LimitPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LimitParameters(_LimitPart):
    """Settings for measuring a model's detection limit, the smallest defect size that it reliably finds.

    They are the false-alarm rate, the number of images, the shapes and contrasts of the defects, the seed, and the
    calibration.
    """

    alpha: float | None = Field(
        None, gt=0, lt=1, description="False-alarm rate. Default: 0.01, or the smallest p-value where that is larger."
    )
    images: int = Field(200, ge=MIN_LIMIT_IMAGES, le=10_000, description="Most good images that get a defect.")
    shapes: tuple[Shape, ...] = Field(SHAPES, min_length=1, description="Shapes of the defects.")
    contrasts: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        CONTRASTS, min_length=1, max_length=10, description="Contrasts of scratch, spot and stain, in grey levels."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of places, angles and signs.")
    calibration: int | None = Field(None, ge=0, description="Number of the calibration. Default: the active one.")

    @model_validator(mode="after")
    def _no_repetition(self) -> Self:
        if len(set(self.shapes)) < len(self.shapes) or len(set(self.contrasts)) < len(self.contrasts):
            raise ValueError("expected each shape and each contrast once")
        return self


class LimitCell(_LimitPart):
    """Detection result for defects of one shape, contrast and size: how many of them were found.

    It has the number of flagged images, and their share with its bounds.

    Each bound is a one-sided 95 % Clopper-Pearson bound.
    """

    size: int = Field(ge=1, description="Pixels of the image as the model gets it.")
    found: int = Field(ge=0, description="Images that are flagged.")
    images: int = Field(ge=1)
    share: float = Field(ge=0, le=1)
    lower: float = Field(ge=0, le=1)
    upper: float = Field(ge=0, le=1)


class LimitCurve(_LimitPart):
    """Fraction of artificial defects detected at each defect size, for defects of one shape and contrast.

    It also has the detection limit.

    The limit is the smallest size from which on, at every larger size too, the lower bound is at least 0.9.
    """

    shape: Shape
    contrast: int | None = Field(description="Grey levels; null for a hole and a missing part.")
    cells: tuple[LimitCell, ...] = Field(description="The smallest size first.")
    limit: int | None = Field(description="Pixels; null if the largest size is not found often enough.")
    lower: float | None = Field(description="Lower bound of the found share at the limit.")

    @property
    def label(self) -> str:
        """The shape and contrast, such as ``spot, 64 grey levels``."""
        name = self.shape.replace("-", " ")
        return name if self.contrast is None else f"{name}, {self.contrast} grey levels"


class UndamagedImages(_LimitPart):
    """Result on good images before defects are added to them: the fraction that is falsely flagged.

    The interval is a two-sided 95 % Clopper-Pearson interval.
    """

    flagged: int = Field(ge=0)
    images: int = Field(ge=0)
    share: float | None = Field(description="Null without images.")
    interval: tuple[float, float] | None


class LimitRecord(_LimitPart):
    """Record of the measured detection limits of a model: the smallest defects that it reliably finds.

    The record states which defects were added to images, how many of them were found, and the limits.
    """

    format_version: Literal[1] = 1
    created: datetime
    job: str | None = None
    weights_sha256: str
    calibration: int | None = Field(ge=0, description="Number of the calibration; null for a model without a registry.")
    calibration_images: int = Field(ge=1, description="Images that p-values are ranks among.")
    smallest_p: float
    alpha: float = Field(gt=0, lt=1, description="An image is found if its p-value is at most this.")
    dataset: str
    dataset_digest: str = Field(description="SHA-256 of the pixels of the good images.")
    part: str = Field(description="Which images of the dataset these are, in words.")
    images: int = Field(ge=0, description="Good images; each gets one defect of each shape, contrast and size.")
    image_shape: tuple[int, int, int] = Field(description="Channels, height, width of the images, in pixels.")
    seed: int
    shapes: tuple[Shape, ...]
    contrasts: tuple[int, ...] = Field(description="Grey levels.")
    sizes: tuple[int, ...] = Field(description="The sizes that were tried, in pixels, the smallest first.")
    undamaged: UndamagedImages
    curves: tuple[LimitCurve, ...]
    not_determinable: str | None = Field(description="Why no limit can be stated; else null.")
    seconds: float = Field(ge=0, description="Time that the scoring took.")


log = logging.getLogger(__name__)

FOLDER = "limits"
RECORD = "limit.json"


class LimitStore:
    """Limits in folders ``<version>/<number>/`` that never change. Writers hold the lock of the model's name."""

    def __init__(self, root: Path, name: str, version: int) -> None:
        self.folder = root / name / FOLDER / str(version)
        self._label = f"{name}:{version}"
        self._of_name = root / name

    def numbers(self) -> list[int]:
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in folders if is_version(path.name) and path.is_dir())

    def record(self, number: int) -> LimitRecord:
        """Read a record; raise ``LimitNotFound``, and ``ArtifactError`` for a damaged file."""
        if number not in self.numbers():
            there = ", ".join(map(str, self.numbers())) or "none"
            raise LimitNotFound(f"{self._label} has no detection limit {number}; it has: {there}")
        return read_limit(self.folder / str(number) / RECORD)

    def readable(self) -> dict[int, LimitRecord]:
        """Return undamaged limits by number; log the others."""
        records = {}
        for number in self.numbers():
            try:
                records[number] = self.record(number)
            except (ArtifactError, LimitNotFound) as problem:
                log.warning("skipping detection limit %d of %s: %s", number, self._label, problem.detail)
        return records

    def best(self, calibration: int) -> tuple[int, LimitRecord] | None:
        """Return the newest limit of a calibration, else of all."""
        newest_first = [*reversed(self.readable().items())]
        own = (item for item in newest_first if item[1].calibration == calibration)
        return next(own, next(iter(newest_first), None))

    def of_job(self, job: str) -> int | None:
        return next((number for number, record in self.readable().items() if record.job == job), None)

    def publish(self, record: LimitRecord, before_publish: Callable[[], None] = lambda: None) -> int:
        """Store a limit; a job publishes once. ``before_publish`` may raise as the last check."""
        with locked(self._of_name):
            remove_leftovers(self.folder)
            known = None if record.job is None else self.of_job(record.job)
            if known is not None:
                return known
            number = max(self.numbers(), default=0) + 1
            with new_folder(self.folder / str(number)) as folder:
                (folder / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
                before_publish()
        return number


def read_limit(path: Path) -> LimitRecord:
    """Read a record; raise ``ArtifactError``, which names the file."""
    try:
        return LimitRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{file_label(path)} is not a valid detection limit: {where}: {first['msg']}") from error
