"""Parameters and report of an evaluation."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from snf_client.schemas.base import DensityKind, Name, RecordModel, RequestModel

Interval = tuple[float, float]


class Rate(RecordModel):
    """Fraction of the anomalous images that an anomaly score detects at a given false-alarm rate.

    It is from 0 to 1; null only in reports of earlier versions, where ``alpha`` was not attainable.
    """

    alpha: float = Field(description="That of the report, or the smallest that the images of the threshold attain.")
    share: float | None


class FalseAlarms(RecordModel):
    """Fraction of normal images that an anomaly score flags as anomalous at a nominal false-alarm rate."""

    alpha: float = Field(description="That of the report, or the smallest that the images of the threshold attain.")
    share: float | None = Field(description="Null only in reports of earlier versions.")
    interval: Interval = Field(description="99 % Beta-binomial interval for these numbers of images.")
    inside: bool | None
    calibration_images: int


class Column(RecordModel):
    """Description of one anomaly score in an evaluation report, with its false-alarm rates on normal images.

    It has a name, a label and a kind. Larger scores are more anomalous.
    """

    name: str
    label: str
    # "thorough" only in reports of earlier versions: the combined score with gradients.
    family: Literal["combined", "thorough", "family", "whole-image", "local", "features", "baseline"]
    false_alarms: list[FalseAlarms]


class Result(RecordModel):
    """Metrics of one anomaly score on one set of anomalous images."""

    score: str
    auroc: float
    auroc_interval: Interval
    aupr: float = Field(description="Average precision, anomalous = positive, at the sizes of these sets.")
    aupr_interval: Interval
    fpr95: float = Field(description="False-positive rate where 95 % of the anomalous images are found.")
    fpr95_interval: Interval
    detected: list[Rate]


class SubfolderReport(RecordModel):
    """Results of the combined score on the anomalous images of one subfolder, such as a kind of defect."""

    name: str
    images: int = Field(description="Images with a score.")
    auroc: float
    detected: list[Rate]


class Curve(RecordModel):
    """ROC curve of one anomaly score, as at most 200 points (false-positive rate, true-positive rate).

    It goes from (0, 0) to (1, 1).
    """

    score: str
    points: list[tuple[float, float]]


class Histogram(RecordModel):
    """Histogram of a score over one set of images, as the fraction of the images in each bin.

    Fractions are from 0 to 1.
    """

    set: str
    shares: list[float]


class Histograms(RecordModel):
    """Histograms of a score, one number per image, over several sets of images, with the same bin edges.

    The number is, for example, the log-likelihood.

    Values beyond the edges count in the outermost bars. Edges of the combined score T are evenly spaced in log(1 + T).
    """

    label: str
    edges: list[float]
    sets: list[Histogram]


class Example(RecordModel):
    """Example image of an evaluation report, as PNG with its p-value, scores and main reason for an anomaly.

    It is one of the most or least anomalous images of a set.
    """

    name: str = Field(description="Path in the dataset, or part and place.")
    p_value: float
    statistic: float
    log_likelihood: float
    reason: str | None = Field(description="The strongest reason for an anomaly.")
    box: tuple[int, int, int, int] | None = Field(
        None, description="Left, top, right, bottom of this reason, in pixels of the upright file."
    )
    png: str = Field(description="The image as PNG, base64; a large one is made smaller.")


class Gallery(RecordModel):
    """The most and the least anomalous images of a set by the model's anomaly score, the most extreme first."""

    most: list[Example]
    least: list[Example]


class ImageCount(RecordModel):
    """Number of images in a set, and how many of them are not judged.

    These have no finite likelihood, or a size that the calibration is not for.
    """

    name: str
    images: int
    failed: int = 0
    adapted: bool = Field(False, description="Whether size or colour were converted as the model would not.")


class RegionRates(RecordModel):
    """Shares of defective images where an anomaly map flags the defect, and of normal images where it flags anything.

    A region is flagged where the map is at or above its threshold.

    The rate is ``alpha``. The values are null where the map has no threshold for this rate.
    """

    alpha: float
    hit: float | None = Field(description="Share of the images with a mask where a region overlaps the defect.")
    false_alarms: float | None = Field(description="Share of the normal images with any region.")


class Localisation(RecordModel):
    """Metrics of how well anomaly maps show the defects of images.

    Masks give the true defects. Larger values of AUROC, AUPRO and AUPIMO are better, and 1 is perfect.
    """

    masks: str = Field(description="The dataset of the masks.")
    images: int = Field(description="Images whose mask has a defect.")
    empty_masks: int = Field(description="Images whose mask has none; they are left out.")
    unpaired: int = Field(description="Images without a mask; they are left out.")
    unpaired_names: list[str] = Field(description="The first 20 of them.")
    unused_masks: int = Field(description="Masks without an image.")
    unused_names: list[str] = Field(description="The first 20 of them.")
    normal_images: int = Field(description="Normal images whose maps count as free of defects.")
    pixel_auroc: float = Field(description="AUROC of the pixels of defects against all other pixels.")
    aupro: float = Field(
        description="Share of each defect that is found, averaged over the defects and over false-positive rates of "
        "pixels from 0 to 0.3."
    )
    aupimo: float | None = Field(
        description="Share of the defect that is found in an image, averaged over the logarithm of false-positive "
        "rates from 1e-5 to 1e-4 on normal images alone: its mean over the images. Null where the normal images have "
        "too few pixels for such rates."
    )
    aupimo_found: float | None = Field(description="Share of the images whose AUPIMO is at least 0.5.")
    regions: list[RegionRates]


class SetReport(RecordModel):
    """Results of all anomaly scores on one set of anomalous images, with examples."""

    name: str
    kind: Literal["dataset", "corruption"]
    images: ImageCount
    normal_images: int = Field(description="Normal images that it is compared with.")
    results: list[Result]
    subfolders: list[SubfolderReport] = Field(
        [], description="Of a dataset whose images lie in 2 to 50 folders: each folder, such as a kind of defect."
    )
    best_baseline: str = Field(description="The baseline with the largest AUROC on this very set.")
    auroc_over_baseline: float = Field(description="AUROC of the combined score minus that of this baseline.")
    auroc_over_baseline_interval: Interval
    curves: list[Curve]
    gallery: Gallery
    localisation: Localisation | None = Field(None, description="Where there are masks.")


class Normal(RecordModel):
    """Section of an evaluation report about the normal images."""

    name: str
    parts: str = Field(description="Which images served which purpose, in words.")
    fit_images: int
    thresholds: ImageCount
    test: ImageCount
    gallery: Gallery
    mean_log_likelihood: float = Field(description="Mean log-density in nats, of the `kind` of the report.")
    bits_per_dim: float | None = Field(description="Null for a density of features.")


class EvaluationReport(RecordModel):
    """Report of an evaluation: how well a model and simple baselines separate normal from anomalous images."""

    format_version: Literal[1] = 1
    created: datetime
    model: str
    weights_sha256: str
    kind: DensityKind = Field("density", description="What the log-likelihoods are a density of: pixels or features.")
    calibration: int = Field(description="Number of the model's calibration; 0 is the one that it came with.")
    calibration_dataset: str = Field(description="Where the model's own p-values come from.")
    calibration_images: int
    alphas: list[float] = Field(
        description="False-alarm rates of the combined score: the smallest attainable one in place of smaller defaults."
    )
    resamples: int | None = Field(None, exclude=True, description="Only in reports of earlier versions.")
    normal: Normal
    columns: list[Column]
    sets: list[SetReport]
    histograms: list[Histograms]
    notes: list[str] = Field(description="Notes on how to read the numbers.")

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


class EvaluationParameters(RequestModel):
    """Settings that a user chooses for the evaluation of a model on normal and anomalous images.

    With ``adapt``, images whose size or colour the model refuses are converted, and the report notes it.
    """

    against: list[Name] = Field([], max_length=20, description="Datasets of anomalous images.")
    masks: dict[Name, Name] = Field(
        {},
        description="For datasets in `against` the dataset with masks of their defects: uploaded grey images whose "
        "file names pair with those of the anomalous images. Values of at least 128 are defects.",
        examples=[{"bad-parts": "bad-parts-masks"}],
    )
    corruptions: bool = Field(False, description="Also against the normal images with graded faults.")
    images: int = Field(10_000, ge=40, le=100_000, description="Most images of a set, evenly spread over it.")
    alpha: float | None = Field(None, gt=0, lt=1, description="A false-alarm rate to report beside 0.01 and 0.05.")
    calibration: int | None = Field(None, ge=0, description="Number of the calibration. Default: the active one.")
    adapt: bool = Field(False, description="Convert size and colour where the model would refuse an image.")

    @model_validator(mode="after")
    def _something_to_tell_from(self) -> Self:
        if not self.against and not self.corruptions:
            raise ValueError("name datasets in `against`, or ask for `corruptions`")
        if len(set(self.against)) < len(self.against):
            raise ValueError("a dataset is named twice in `against`")
        if missing := sorted(set(self.masks) - set(self.against)):
            raise ValueError(f"masks are given for {', '.join(missing)}, which is not among the datasets in `against`")
        return self
