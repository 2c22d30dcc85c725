"""What the service answers about the course and the end of a job."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from app.http.schemas import Answer


class CurvePoint(Answer):
    """One report of a training; null where the value was not a finite number."""

    step: int
    epoch: int | None = None
    time: datetime
    attempt: int
    bits_per_dim: float | None = None
    reconstruction_error: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None


class Validation(Answer):
    """One validation of a training, with whatever else its trainer found then."""

    model_config = ConfigDict(frozen=True, extra="allow")

    step: int
    time: datetime
    attempt: int
    bits_per_dim: float | None = None


class TrainingCurve(Answer):
    """The course of a training; steps rise strictly, also where an attempt did some of them anew."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "job": "06f8m2q1x3z4c5v6b7n8m9k0j1",
                    "points": [
                        {
                            "step": 40,
                            "epoch": 0,
                            "time": "2026-07-01T12:00:02.125Z",
                            "attempt": 1,
                            "bits_per_dim": 2.41,
                            "reconstruction_error": 0.0012,
                            "learning_rate": 0.001,
                            "images_per_second": 1850.5,
                        }
                    ],
                    "validations": [
                        {"step": 40, "time": "2026-07-01T12:00:02.514Z", "attempt": 1, "bits_per_dim": 2.38}
                    ],
                }
            ]
        },
    )

    job: str
    points: list[CurvePoint]
    validations: list[Validation]


class Preview(Answer):
    """A grid of samples that the flow drew at one step."""

    step: int
    url: str = Field(description="Path of the PNG.", examples=["/v1/jobs/06f8m2q1x3z4c5v6b7n8m9k0j1/samples/40"])


class Previews(Answer):
    """The previews that are kept of a training, the oldest first."""

    job: str
    samples: list[Preview]


class JobResult(Answer):
    """The model version that a job registered or calibrated."""

    model: str
    version: int
    ref: str = Field(examples=["my-digits:1"])
    links: dict[str, str]


class CalibrationResult(JobResult):
    """The calibration that a job made."""

    calibration: int = Field(description="Its number.")
    smallest_p: float = Field(description="Smallest p-value that it can give.")
