"""What the service accepts and answers about calibrations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.http.schemas import Answer
from models.artifacts.manifest import Deviation, Precision
from models.naming import Name

LINE: dict[str, Any] = {
    "number": 1,
    "active": True,
    "created": "2026-07-01T12:00:00Z",
    "job": "06f8m2q1x3z4c5v6b7n8m9k0j1",
    "dataset": "line-1",
    "statistics_images": 1600,
    "calibration_images": 400,
    "folds": 1,
    "precision": "float32",
    "deviation": None,
    "smallest_p": 0.0024937655860349127,
    "thresholds": [
        {"alpha": 0.001, "threshold": None, "images_needed": 2995},
        {"alpha": 0.005, "threshold": None, "images_needed": 598},
        {"alpha": 0.01, "threshold": 0.0024937655860349127, "images_needed": 299},
        {"alpha": 0.02, "threshold": 0.00997506234413965, "images_needed": 149},
        {"alpha": 0.05, "threshold": 0.032418952618453865, "images_needed": 59},
        {"alpha": 0.1, "threshold": 0.07481296758104738, "images_needed": 29},
    ],
    "problem": None,
}
"""An example; a test computes its numbers."""


class CalibrationRequest(BaseModel):
    """Images to calibrate on."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"dataset": "line-1", "activate": True}]}
    )

    dataset: Name = Field(description="Images like those to be scored, none of which shall be flagged.")
    activate: bool = Field(True, description="Whether scoring uses the new calibration from then on.")
    precision: Precision = Field(
        "float32",
        description="Arithmetic that scores have while this calibration is in use. `bfloat16`: that of the middle "
        "convolutions of the coupling networks, faster where the CPU has it; how far scores are from float32 is "
        "measured and told in `deviation`.",
    )


class CalibrationChoice(BaseModel):
    """Which calibration shall be used."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"calibration": 0}]})

    calibration: int = Field(ge=0, description="Its number; 0 is the one that the model came with.")


class Threshold(Answer):
    """With p <= `threshold` the false-alarm rate is at most `alpha` with 95 % confidence."""

    alpha: float = Field(description="False-alarm rate.")
    threshold: float | None = Field(description="Pass it as `alpha` when scoring; null where too few images are there.")
    images_needed: int = Field(description="Fewest calibration images for which there is a threshold.")


class CalibrationView(Answer):
    """One calibration of a model version; what it is made of is null where its record is damaged."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [LINE]})

    number: int = Field(description="0 is the one that the model came with.")
    active: bool = Field(description="Whether scoring uses it.")
    created: datetime | None
    job: str | None = Field(description="The job that made it; null for 0 where the model was not trained by one.")
    dataset: str | None
    statistics_images: int | None = Field(description="Images that the statistics were fitted to.")
    calibration_images: int | None = Field(description="Images that p-values are ranks among.")
    folds: int | None = Field(
        description="More than 1: both kinds are the same images, each fold judged by the others."
    )
    precision: Precision | None = Field(description="Arithmetic that scores have while it is in use.")
    deviation: Deviation | None = Field(
        description="How far scores of its calibration images are from float32, nats; null where it is that."
    )
    smallest_p: float | None = Field(
        description="Smallest p-value it can give: the smallest `alpha` that can be asked."
    )
    thresholds: list[Threshold] = Field(
        description="With p <= `threshold` the false-alarm rate is at most `alpha` with 95 % confidence, for images "
        "like those of the calibration. "
        "Empty where that is not known: with several folds, and where suspect images were left out."
    )
    problem: str | None = Field(description="Why it cannot be used.")


class CalibrationList(Answer):
    """The calibrations of a model version, 0 first."""

    model: str
    version: int
    active: int
    calibrations: list[CalibrationView]
