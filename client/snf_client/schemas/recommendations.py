"""Parameters and result of a comparison of model families."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from snf_client.schemas.base import RecordModel
from snf_client.schemas.limits import CONTRASTS, SHAPES, LimitCurve, Shape, UndamagedImages
from snf_client.schemas.training import ImageOptions

FamilyName = Literal["features", "pixels", "hybrid"]
MAX_MINUTES = 24 * 60


class RecommendParameters(ImageOptions):
    """Settings of a comparison of pixel, feature and hybrid models."""

    minutes: float = Field(
        10.0,
        gt=0,
        le=MAX_MINUTES,
        description="About the time of the whole comparison; a quarter trains the pixel flow, 30 % the hybrid "
        "model. Features are fitted and limits measured however long it takes.",
    )
    alpha: float = Field(
        0.01, gt=0, lt=1, description="False-alarm rate; the smallest p-value is taken where that is larger."
    )
    shapes: tuple[Shape, ...] = Field(SHAPES, min_length=1, description="Shapes of the defects.")
    contrasts: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        CONTRASTS, min_length=1, max_length=10, description="Contrasts of scratch, spot and stain, in grey levels."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the subsets, the weights and the defects.")
    backbone: str = Field("efficientnet-lite0", max_length=64, description="The frozen network of features.")
    feature_side: int | None = Field(
        None, ge=32, le=1024, description="The shorter side to which images are enlarged for the backbone, at least."
    )

    @model_validator(mode="after")
    def _several_families(self) -> Self:
        if self.fit == "tiles":
            raise ValueError("images of any size (fit=tiles) are for features alone, so train snf-features")
        return self

    @property
    def image_settings(self) -> dict[str, Any]:
        """Image options that were set, by the names of the training parameters."""
        return self.model_dump(mode="json", include=set(ImageOptions.model_fields), exclude_unset=True)


class FamilyResult(RecordModel):
    """Measured likelihood, detection limits and speed of one model family in a comparison.

    If the family was not compared, ``unavailable`` gives the reason.
    """

    family: FamilyName
    preset: str = Field(description="The preset that trains such a model.")
    unavailable: str | None = Field(None, description="Why it was not compared; else null.")
    held_out: float | None = Field(
        None,
        description="Negative log-likelihood of images that the model was not fitted to: bits/dim of pixels, or nats "
        "for each value of the features. Smaller is better. The units cannot be compared with each other.",
    )
    baseline: float | None = Field(
        None, description="The same of a trivial density: independent pixels, or one Gaussian for all places."
    )
    unit: Literal["bits/dim", "nats/value"] | None = Field(None, description="Unit of both.")
    undamaged: UndamagedImages | None = Field(None, description="False alarms in the same images without defects.")
    not_determinable: str | None = Field(None, description="Why no limit can be stated; else null.")
    image_shape: tuple[int, int, int] | None = Field(
        None, description="Channels, height, width of the images as the family got them; null if it was not compared."
    )
    curves: tuple[LimitCurve, ...] = Field(
        (), description="Found shares and limits by shape and contrast, in pixels of the images of the dataset."
    )
    mean_rank: float | None = Field(
        None,
        description="Mean over the shapes of the place of the limit among the sizes, from 0; one more than the last "
        "where no size is found. Smaller is better.",
    )
    typical_limit: str | None = Field(
        None, description="The size in pixels that the mean rank stands for, such as `4.5` or `over 12`."
    )
    fit_seconds: float | None = Field(None, ge=0, description="Time that the fit or training to the subset took.")
    seconds_per_1000: float | None = Field(
        None, ge=0, description="Time to judge 1,000 images, the drawing of defects included."
    )
    steps: int | None = Field(None, ge=0, description="Optimiser steps of the pixel flow; null without one.")


class ComparedImages(RecordModel):
    """Numbers of images that a model comparison used to fit, calibrate and test the models. None is counted twice."""

    fit: int = Field(ge=1, description="Images of the train part that the families were fitted to.")
    statistics: int = Field(ge=1, description="Images of the train part that fitted the anomaly statistics.")
    ranks: int = Field(
        ge=0, description="Images of the train part that p-values are ranks among; 0 if the statistics serve in folds."
    )
    good: int = Field(ge=1, description="Images of the train part that got the defects.")


class RecommendationRecord(RecordModel):
    """Result of a comparison of model families, with a proposal and its reasons."""

    format_version: Literal[1] = 1
    created: datetime
    job: str | None = None
    dataset: str
    dataset_digest: str
    image_shape: tuple[int, int, int] = Field(description="Channels, height, width of the images, in pixels.")
    minutes: float = Field(description="The time that was given.")
    seconds: float = Field(ge=0, description="Time that it took, without earlier attempts.")
    seed: int
    alpha: float = Field(gt=0, lt=1, description="A defect is found if the p-value of its image is at most this.")
    smallest_p: float = Field(description="The smallest p-value that the comparison can give.")
    images: ComparedImages
    shapes: tuple[Shape, ...]
    contrasts: tuple[int, ...] = Field(description="Grey levels.")
    sizes: tuple[int, ...] = Field(description="Sizes of the defects in pixels, the smallest first.")
    families: tuple[FamilyResult, ...]
    proposal: FamilyName | None = Field(description="The proposed family; null if none was measured.")
    preset: str | None = Field(description="The preset of the proposed family.")
    parameters: dict[str, Any] = Field({}, description="Training parameters to go on with: the options of the images.")
    reasons: tuple[str, ...] = Field(description="Why this family is proposed, or why none is.")
    not_covered: str = Field(description="What the comparison does not measure.")
    notes: tuple[str, ...] = Field((), description="What was reduced, and what a training found unfit.")
