"""API answers that compare two calibrations of a model version."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from snf_app.http.schemas import Answer
from snf_models.artifacts.manifest import Precision

COMPARISON: dict[str, Any] = {
    "model": "my-parts",
    "version": 1,
    "before": {
        "number": 0,
        "dataset": "parts",
        "calibration_images": 500,
        "precision": "float32",
        "smallest_p": 0.001996007984031936,
        "attainable_alphas": [0.005, 0.01, 0.02, 0.05, 0.1],
        "default_alpha": 0.01,
        "threshold": 4.382901,
    },
    "after": {
        "number": 1,
        "dataset": "line-1",
        "calibration_images": 30,
        "precision": "float32",
        "smallest_p": 0.03225806451612903,
        "attainable_alphas": [0.05, 0.1],
        "default_alpha": 0.03225806451612903,
        "threshold": 3.10482,
    },
    "verdicts": {
        "images": 200,
        "anomalies_before": 3,
        "anomalies_after": 9,
        "to_anomaly": 7,
        "to_normal": 1,
        "refused_before": 0,
        "refused_after": 0,
        "note": "the newest 200 images that this service process judged, each at the false-alarm rate of its request; "
        "images of bulk jobs are not among them",
    },
}


class ComparedCalibration(Answer):
    """One of two compared calibrations of a model, with its smallest attainable p-value and anomaly threshold."""

    number: int
    dataset: str
    calibration_images: int = Field(description="Images among which p-values are ranks.")
    precision: Precision
    smallest_p: float = Field(description="Smallest p-value, and so the smallest `alpha` of a request.")
    attainable_alphas: list[float] = Field(
        description="Those of 0.001, 0.005, 0.01, 0.02, 0.05 and 0.1 that it can flag at."
    )
    default_alpha: float = Field(description="False-alarm rate of requests without `alpha`.")
    threshold: float = Field(
        description="Anomaly statistic, in nats, from which an image is flagged at the default alpha; approximate with "
        "several folds."
    )


class ComparedVerdicts(Answer):
    """Counts of anomalies among the newest scored images under each of two calibrations.

    They show how the verdicts would change.
    """

    images: int = Field(description="Images judged by both calibrations.")
    anomalies_before: int
    anomalies_after: int
    to_anomaly: int = Field(description="Images whose verdict would change from normal to anomalous.")
    to_normal: int = Field(description="Images whose verdict would change from anomalous to normal.")
    refused_before: int = Field(description="Images whose `alpha` the calibration in use cannot attain.")
    refused_after: int = Field(description="Images whose `alpha` the other one cannot attain: a 422 error.")
    note: str = Field(description="Which images these are, or why there are none.")


class CalibrationComparison(Answer):
    """Comparison of a model version's p-value calibration with another one, by default the one in use.

    It shows the smallest false-alarm rate and the threshold of both, and how many verdicts on the newest images would
    change.
    """

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [COMPARISON]})

    model: str
    version: int
    before: ComparedCalibration = Field(description="The calibration in use, or the one asked for.")
    after: ComparedCalibration
    verdicts: ComparedVerdicts
