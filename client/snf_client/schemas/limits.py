"""Detection limits: the smallest sizes of artificial defects that a model reliably finds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from snf_client.schemas.base import RecordModel, RequestModel, ResponseModel

Shape = Literal["scratch", "spot", "stain", "hole", "missing-part"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
CONTRASTS = (32, 64, 128)
MIN_LIMIT_IMAGES = 29
"""Fewest images that can show a limit: if all defects in n images are found, the bound is 0.05^(1/n)."""


class LimitParameters(RequestModel):
    """Settings for measuring a model's detection limit, the smallest defect size that it reliably finds."""

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


class LimitCell(RecordModel):
    """Detection result for defects of one shape, contrast and size: how many of them were found.

    Each bound is a one-sided 95 % Clopper-Pearson bound.
    """

    size: int = Field(ge=1, description="Pixels of the image as the model gets it.")
    found: int = Field(ge=0, description="Images that are flagged.")
    images: int = Field(ge=1)
    share: float = Field(ge=0, le=1)
    lower: float = Field(ge=0, le=1)
    upper: float = Field(ge=0, le=1)


class LimitCurve(RecordModel):
    """Fraction of artificial defects detected at each defect size, for defects of one shape and contrast.

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


class UndamagedImages(RecordModel):
    """Result on good images before defects are added to them: the fraction that is falsely flagged.

    The interval is a two-sided 95 % Clopper-Pearson interval.
    """

    flagged: int = Field(ge=0)
    images: int = Field(ge=0)
    share: float | None = Field(description="Null without images.")
    interval: tuple[float, float] | None


class LimitRecord(RecordModel):
    """Record of the measured detection limits of a model: the smallest defects that it reliably finds."""

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


class LimitView(ResponseModel):
    """A measured detection limit, the size of the smallest defects that a model version finds."""

    number: int
    in_use: bool = Field(description="Whether it belongs to the calibration in use.")
    limit: LimitRecord


class LimitList(ResponseModel):
    """Measurements of the smallest defects that a model version detects, the newest first."""

    model: str
    version: int
    active: int = Field(description="The calibration in use. A limit belongs to one calibration.")
    limits: list[LimitView]
