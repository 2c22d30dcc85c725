"""Calibrations of p-values, and comparisons of two of them."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, StrictBool

from snf_client.schemas.base import Name, Precision, RecordModel, RequestModel, ResponseModel, Whole


class Deviation(RecordModel):
    """Figures that summarise the differences between bfloat16 and float32 scores of a model's calibration images.

    ``worst_statistic`` is the maximum for the anomaly statistic, the other figures are for the log-likelihood.
    """

    images: int = Field(ge=1)
    median: float = Field(ge=0)
    quantile_999: float = Field(ge=0, description="99.9 % of the images deviate by less.")
    worst: float = Field(ge=0)
    worst_statistic: float = Field(ge=0)


class ComparedCalibration(ResponseModel):
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


class ComparedVerdicts(ResponseModel):
    """Counts of anomalies among the newest scored images under each of two calibrations."""

    images: int = Field(description="Images judged by both calibrations.")
    anomalies_before: int
    anomalies_after: int
    to_anomaly: int = Field(description="Images whose verdict would change from normal to anomalous.")
    to_normal: int = Field(description="Images whose verdict would change from anomalous to normal.")
    refused_before: int = Field(description="Images whose `alpha` the calibration in use cannot attain.")
    refused_after: int = Field(description="Images whose `alpha` the other one cannot attain: a 422 error.")
    note: str = Field(description="Which images these are, or why there are none.")


class CalibrationComparison(ResponseModel):
    """Comparison of a model version's p-value calibration with another one, by default the one in use."""

    model: str
    version: int
    before: ComparedCalibration = Field(description="The calibration in use, or the one asked for.")
    after: ComparedCalibration
    verdicts: ComparedVerdicts


class CalibrationParameters(RequestModel):
    """Parameters of a job that calibrates the p-values of a model on a dataset."""

    activate: StrictBool | None = Field(
        None,
        description="Whether the new calibration becomes the active one. Null: it does unless it attains fewer of "
        "the rates 0.001, 0.005, 0.01, 0.02, 0.05 and 0.1 than the one in use at that time.",
    )
    precision: Precision = Field(
        "float32",
        description="Arithmetic of scores while this calibration is active. `bfloat16`: for the middle convolutions of "
        "the coupling networks, faster on CPUs that support it. The distance of scores from float32 is measured as "
        "`deviation`.",
    )


class CalibrationRequest(CalibrationParameters):
    """Request to calibrate the p-values of a model on a dataset of normal images.

    While the new calibration is active, the p-values of the model are ranks among images of this dataset.
    """

    dataset: Name = Field(description="A dataset of normal images, like those to be scored.")


class CalibrationChoice(RequestModel):
    """Request to select, by its number, the calibration with which a model version judges images."""

    calibration: Whole = Field(ge=0, description="Its number; 0 is the model's own calibration.")
    dry_run: StrictBool = Field(False, description="Change nothing, and answer with a `comparison`.")


class Threshold(ResponseModel):
    """P-value threshold that keeps the false-alarm rate within a given limit.

    If p-values up to the threshold are flagged, at most a share `alpha` of normal images is flagged, with 95 %
    confidence.
    """

    alpha: float = Field(description="False-alarm rate.")
    threshold: float | None = Field(description="`alpha` for scoring; null where there are too few images.")
    images_needed: int = Field(description="Fewest calibration images for a threshold.")


class CalibrationView(ResponseModel):
    """Calibration of a model's p-values as an API answer: dataset, image counts and p-value thresholds.

    Fields are null if the file of the calibration is damaged.
    """

    number: int = Field(description="0 is the model's own calibration.")
    active: bool = Field(description="Whether scoring uses it.")
    created: datetime | None
    job: str | None = Field(description="The job that made it; null for a model that was not trained by a job.")
    dataset: str | None
    statistics_images: int | None = Field(description="Images to which the statistics were fitted.")
    calibration_images: int | None = Field(description="Images among which p-values are ranks.")
    copies: int | None = Field(
        None, description="Further calibration images that are copies of others: a group of copies gives one rank."
    )
    tiles: tuple[int, int] | None = Field(
        None, description="Fewest and most tiles of a calibration image: other images are not judged. Null: all are."
    )
    folds: int | None = Field(
        description="More than 1: both kinds are the same images, and each fold is judged by the fit to the others."
    )
    precision: Precision | None = Field(description="Arithmetic of scores while it is active.")
    deviation: Deviation | None = Field(
        description="Distance of scores of its calibration images from float32, nats; null for float32."
    )
    smallest_p: float | None = Field(
        description="Smallest p-value it can give, and so the smallest `alpha` of a request."
    )
    thresholds: list[Threshold] = Field(
        description="Thresholds for images like those of the calibration. Empty with several folds, and where an "
        "earlier version left suspect images out."
    )
    problem: str | None = Field(description="Why it cannot be used.")
    warning: str | None = Field(
        None, description="`gradient-evidence-ignored`, in words, for a calibration of an earlier version; else null."
    )
    reason: str | None = Field(
        None,
        description="Why it did not become active when it was made, unless it was chosen since, or that it replaced a "
        "damaged one; else null.",
    )


class CalibrationList(ResponseModel):
    """List of all p-value calibrations of a model version, as an API answer.

    They are in ascending order of number. `active` is the number of the calibration in use.
    """

    model: str
    version: int
    active: int
    calibrations: list[CalibrationView]
    comparison: CalibrationComparison | None = Field(None, description="Of a `dry_run`: what would change. Else null.")
