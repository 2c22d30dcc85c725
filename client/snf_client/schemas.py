"""Requests and responses of the service as pydantic models.

Generated from the service's OpenAPI document by ``make client-schemas``; do not edit. Unknown fields of a response are
ignored, so that a newer service works with an older client.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class AliasTarget(BaseModel):
    """Body of a request that points an alias of a model at one of the model's versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = Field(..., description="A version of the model.")


class AuditedImage(BaseModel):
    """Log-likelihood of one image in an audit: as the service gives it, and recomputed in float64.

    Both values and their difference are in nats.
    """

    model_config = ConfigDict(frozen=True)
    index: int
    source: Literal["pinned", "sample"] = Field(
        ..., description="`pinned`: stored with the model; `sample`: drawn from it, the same at every audit."
    )
    log_likelihood: float = Field(..., description="By the engine, with the cached log-determinants, nats.")
    recomputed: float = Field(
        ...,
        description="By the flow as it was trained, in float64, with every log-determinant recomputed, nats. Features are extracted in float64, too, unless the backbone is an ONNX file.",
    )
    difference: float = Field(..., description="`log_likelihood` - `recomputed`, nats.")
    tolerance: float = Field(..., description="Largest allowed difference of this image, nats.")


class AuditedLayer(BaseModel):
    """Log-determinant of one layer of a flow, as stored with the model and as recomputed in float64.

    It is log |det Jacobian|, which is equal for all images.
    """

    model_config = ConfigDict(frozen=True)
    layer: str = Field(..., description="Its name; in a hybrid model it begins with `pixels.` or `features.`.")
    cached: float = Field(..., description="As stored with the model, nats.")
    recomputed: float = Field(..., description="Recomputed in float64, nats.")
    difference: float = Field(..., description="`cached` - `recomputed`, nats.")


class AuditedTotal(BaseModel):
    """Sum of a model's log-determinants over its layers, as used in scores and as recomputed in float64.

    It is the log |det Jacobian| that is equal for all images. Its largest allowed difference is included.

    The sum is that of the layers whose log |det Jacobian| a score contains: in a hybrid model those of pixels, and for
    features `places.0`, of the fit to all images.
    """

    model_config = ConfigDict(frozen=True)
    cached: float = Field(..., description="As used by scores, nats.")
    recomputed: float
    difference: float
    tolerance: float = Field(..., description="Largest allowed difference, nats: that of float32 in every precision.")


class CalibrationChoice(BaseModel):
    """Request to select, by its number, the calibration with which a model version judges images.

    The calibration with this number gives the p-values from then on, unless `dry_run` is true.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    calibration: int = Field(..., description="Its number; 0 is the model's own calibration.")
    dry_run: bool = Field(False, description="Change nothing, and answer with a `comparison`.")


class CalibrationRequest(BaseModel):
    """Request to calibrate the p-values of a model on a dataset of normal images.

    While the new calibration is active, the p-values of the model are ranks among images of this dataset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str = Field(..., description="A dataset of normal images, like those to be scored.")
    activate: bool | None = Field(
        None,
        description="Whether the new calibration becomes the active one. Null: it does unless it attains fewer of the rates 0.001, 0.005, 0.01, 0.02, 0.05 and 0.1 than the one in use at that time.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of scores while this calibration is active. `bfloat16`: for the middle convolutions of the coupling networks, faster on CPUs that support it. The distance of scores from float32 is measured as `deviation`.",
    )


class CalibrationResult(BaseModel):
    """Result of a calibration job: the new calibration of a model version's p-values.

    It has the number of the calibration and the smallest p-value that it can give.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    ref: str
    links: dict[str, str]
    calibration: int = Field(..., description="Its number.")
    smallest_p: float = Field(..., description="Smallest p-value that it can give.")
    active: bool | None = Field(
        None, description="Whether it became the active calibration; null for jobs of earlier versions."
    )
    reason: str | None = Field(None, description="Why it did not, or that it replaced a damaged one; else null.")


class CallerView(BaseModel):
    """Name, id and roles of the API key that a request carries, as the answer of `/v1/me`."""

    model_config = ConfigDict(frozen=True)
    name: str = Field(..., description="Name of the key; `anyone` where the service has no keys.")
    key: str | None = Field(..., description="Id of the key; null without one.")
    role: Literal["read", "score", "train", "admin"] = Field(..., description="Role of the key; admin without one.")
    may: list[Literal["read", "score", "train", "admin"]] = Field(..., description="Roles that `role` includes.")


class ComparedCalibration(BaseModel):
    """One of two compared calibrations of a model, with its smallest attainable p-value and anomaly threshold."""

    model_config = ConfigDict(frozen=True)
    number: int
    dataset: str
    calibration_images: int = Field(..., description="Images among which p-values are ranks.")
    precision: Literal["float32", "bfloat16"]
    smallest_p: float = Field(..., description="Smallest p-value, and so the smallest `alpha` of a request.")
    attainable_alphas: list[float] = Field(
        ..., description="Those of 0.001, 0.005, 0.01, 0.02, 0.05 and 0.1 that it can flag at."
    )
    default_alpha: float = Field(..., description="False-alarm rate of requests without `alpha`.")
    threshold: float = Field(
        ...,
        description="Anomaly statistic, in nats, from which an image is flagged at the default alpha; approximate with several folds.",
    )


class ComparedImages(BaseModel):
    """Numbers of images that a model comparison used to fit, calibrate and test the models. None is counted twice."""

    model_config = ConfigDict(frozen=True)
    fit: int = Field(..., description="Images of the train part that the families were fitted to.")
    statistics: int = Field(..., description="Images of the train part that fitted the anomaly statistics.")
    ranks: int = Field(
        ..., description="Images of the train part that p-values are ranks among; 0 if the statistics serve in folds."
    )
    good: int = Field(..., description="Images of the train part that got the defects.")


class ComparedVerdicts(BaseModel):
    """Counts of anomalies among the newest scored images under each of two calibrations.

    They show how the verdicts would change.
    """

    model_config = ConfigDict(frozen=True)
    images: int = Field(..., description="Images judged by both calibrations.")
    anomalies_before: int
    anomalies_after: int
    to_anomaly: int = Field(..., description="Images whose verdict would change from normal to anomalous.")
    to_normal: int = Field(..., description="Images whose verdict would change from anomalous to normal.")
    refused_before: int = Field(..., description="Images whose `alpha` the calibration in use cannot attain.")
    refused_after: int = Field(..., description="Images whose `alpha` the other one cannot attain: a 422 error.")
    note: str = Field(..., description="Which images these are, or why there are none.")


class Curve(BaseModel):
    """ROC curve of one anomaly score, as at most 200 points (false-positive rate, true-positive rate).

    It goes from (0, 0) to (1, 1).
    """

    model_config = ConfigDict(frozen=True)
    score: str
    points: list[tuple[float, float]]


class CurvePoint(BaseModel):
    """Metrics of one training step in a learning curve, such as bits per dimension and learning rate.

    A metric is null if it was not finite, or if the training does not have it.
    """

    model_config = ConfigDict(frozen=True)
    step: int
    epoch: int | None = None
    time: datetime
    attempt: int
    bits_per_dim: float | None = None
    reconstruction_error: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None


class DatasetEntry(BaseModel):
    """Summary of a dataset: origin, image sizes and image counts.

    There is a count for each part of the dataset: training, statistics, calibration and test.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    origin: Literal["built-in", "stored", "reference"] = Field(
        ..., description="Whether it came with the product, was uploaded, or refers to images that stay where they are."
    )
    images: int
    image_shape: list[int] = Field(
        ...,
        description="Channels, height, width of the training images, by default. Empty for a dataset by reference that was not inspected, which can be scored only.",
    )
    train: int = Field(..., description="Images that fit the flow.")
    statistics: int = Field(
        ..., description="Images that select the model and fit the anomaly statistics; with folds also for p-values."
    )
    calibration: int = Field(..., description="Images that only give p-values; 0 with folds.")
    test: int = Field(..., description="Images that are used by evaluations only.")
    folds: int = Field(
        ...,
        description="Folds of `statistics` for cross-conformal prediction, which replaces the calibration part of fewer than 400 uploaded images. Else 0.",
    )
    smallest: list[int] = Field(
        ..., description="Smallest width and smallest height of the original images, or empty as `image_shape`."
    )
    largest: list[int] = Field(
        ..., description="Largest width and largest height of the original images, or empty as `image_shape`."
    )
    bytes: int = Field(..., description="Size of the original files.")
    created: datetime | None = Field(..., description="Time of the upload; null for built-in datasets.")
    location: str | None = Field(None, description="URL of the images of a dataset by reference, else null.")
    problem: str | None = Field(None, description="Why it cannot be used, if so. Counts are 0 then.")


class DatasetList(BaseModel):
    """A page of the summaries of all datasets, the built-in ones first."""

    model_config = ConfigDict(frozen=True)
    datasets: list[DatasetEntry]
    next: str | None = Field(None, description="Value of `after` for the next page; null for the last page.")


class Deviation(BaseModel):
    """Figures that summarise the differences between bfloat16 and float32 scores of a model's calibration images.

    They are the median, the 99.9 % quantile and the maximum of the absolute differences, in nats.

    ``worst_statistic`` is the maximum for the anomaly statistic, the other figures are for the log-likelihood.
    """

    model_config = ConfigDict(frozen=True)
    images: int
    median: float
    quantile_999: float = Field(..., description="99.9 % of the images deviate by less.")
    worst: float
    worst_statistic: float


class Draws(BaseModel):
    """Mean, standard error and other statistics of a log-likelihood over several draws of dequantisation noise."""

    model_config = ConfigDict(frozen=True)
    k: int = Field(..., description="Number of draws.")
    mean: float = Field(..., description="Mean of log p over the draws, nats.")
    standard_error: float = Field(..., description="Standard error of that mean, nats.")
    iw_bound: float = Field(..., description="Importance-weighted lower bound of the log-mass, nats.")


class Drift(BaseModel):
    """Result of the drift test on all images of one source, such as a camera, or of all sources.

    It tells whether scored images still look like the calibration images, by a martingale: a capital of 1 is bet
    against that.

    Each image is ranked among the calibration images and all earlier images, by anomaly statistic and by white level:
    the smallest grey level that at least 99 % of its values do not exceed. Images of equal rank are ordered by chance.
    Of a calibration in folds, the statistic and the images are those of the first fold. Without drift a capital ever
    reaches c with a probability of at most 1 / c, however often it is looked at.
    """

    model_config = ConfigDict(frozen=True)
    source: str | None = Field(..., description="Source of the images; null for all sources together.")
    images: int = Field(..., description="Images since the start, or since drift was last acknowledged.")
    since: datetime = Field(..., description="Time at which the first of them was scored.")
    quantity: Literal["statistic", "white-level"] = Field(
        ...,
        description="What the highest capital was bet on: ranks of the anomaly statistic, or of the white level. There is no bet on white levels for a calibration made before they were stored.",
    )
    log10_capital: float = Field(..., description="Decimal logarithm of the larger capital now; 0 at the start.")
    log10_highest: float = Field(..., description="Decimal logarithm of the highest capital so far.")
    log10_threshold: float = Field(
        ...,
        description="Decimal logarithm of the capital that raises an alarm: the service's threshold, or twice that where white levels are known, because there are two capitals then.",
    )
    alarm: bool = Field(
        ..., description="Whether a capital has reached the threshold. The alarm lasts until it is acknowledged."
    )
    alarm_since: datetime | None = Field(..., description="Start of the alarm, while it lasts.")


class DriftReport(BaseModel):
    """Drift of the images that a model version has scored: of all sources together, and of each source.

    The images are compared with those of the active calibration.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    calibration: int = Field(..., description="The active calibration, with whose images the images are compared.")
    drift: list[Drift] = Field(
        ...,
        description="All sources together first, then each source. Each is absent until an image of it is scored, also after it was acknowledged.",
    )


class Duplicates(BaseModel):
    """Summary of one kind of duplicates in a dataset, either exact duplicates or near duplicates.

    It has the number of images with a duplicate, the number of sets or pairs of duplicates, and examples by path.
    """

    model_config = ConfigDict(frozen=True)
    images: int = Field(..., description="Images that have another like them.")
    sets: int = Field(..., description="Sets of duplicates, or pairs of near duplicates.")
    examples: list[list[str]]


class Estimate(BaseModel):
    """Expected duration in seconds and peak memory in bytes of a training job, by the latest one of its kind.

    Trainings are of one kind if they have the same architecture, image shape, device and settings, but for steps,
    minutes, seed and learning rate.
    """

    model_config = ConfigDict(frozen=True)
    seconds: float | None = Field(
        ...,
        description="Expected time from its start to the registered model, `max_minutes` at most. null: unknown until it runs; then `eta_seconds` of its progress follows from its own steps.",
    )
    memory_bytes: int | None = Field(
        ...,
        description="Peak memory of the training process of the latest one of its kind. null: unknown until it runs.",
    )
    fits: bool | None = Field(
        ...,
        description="Whether a running worker gives a training that much memory; null if that is not known: no worker serves the queue, or no training of its kind with as many images has run.",
    )
    available_bytes: int | None = Field(
        None, description="Most memory that a running worker of the queue gives a training; null: not known."
    )
    ranked_images: int | None = Field(
        None, description="Images that p-values will be ranks among; null: a job of an earlier version."
    )
    smallest_alpha: float | None = Field(None, description="Smallest `alpha` that is attainable with these ranks.")
    images_for_default: int | None = Field(
        None, description="Uploaded good images from which on an `alpha` of 0.01 is attainable with such a model."
    )


class EstimatedJob(BaseModel):
    """Estimate for a job that was checked but not queued: its worker queue, expected time and memory.

    It also has the number of jobs that wait in that queue.
    """

    model_config = ConfigDict(frozen=True)
    queue: str = Field(..., description="Queue that it would wait in.")
    waiting: int = Field(..., description="Jobs that wait in that queue already.")
    workers: int = Field(..., description="Running workers that serve that queue.")
    waits_for: str | None = Field(None, description="What it would wait for where no running worker serves that queue.")
    estimate: Estimate | None = Field(
        ..., description="Null for what is not known beforehand: a training alone has one."
    )


class Example(BaseModel):
    """Example image of an evaluation report, as PNG with its p-value, scores and main reason for an anomaly.

    It is one of the most or least anomalous images of a set.
    """

    model_config = ConfigDict(frozen=True)
    name: str = Field(..., description="Path in the dataset, or part and place.")
    p_value: float
    statistic: float
    log_likelihood: float
    reason: str | None = Field(..., description="The strongest reason for an anomaly.")
    box: tuple[int, int, int, int] | None = Field(
        None, description="Left, top, right, bottom of this reason, in pixels of the upright file."
    )
    png: str = Field(..., description="The image as PNG, base64; a large one is made smaller.")


class FalseAlarms(BaseModel):
    """Fraction of normal images that an anomaly score flags as anomalous at a nominal false-alarm rate.

    The rate is ``alpha``. The 99 % interval that is expected for the fraction is given, too.
    """

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(
        ..., description="That of the report, or the smallest that the images of the threshold attain."
    )
    share: float | None = Field(..., description="Null only in reports of earlier versions.")
    interval: tuple[float, float] = Field(..., description="99 % Beta-binomial interval for these numbers of images.")
    inside: bool | None
    calibration_images: int


class Fdr(BaseModel):
    """Benjamini-Hochberg q-values of a request's images, for control of the false-discovery rate (FDR).

    Flag all images whose q-value is at most q: then the expected share of false alarms among them is at most q.
    """

    model_config = ConfigDict(frozen=True)
    q_values: list[float | None] = Field(
        ..., description="Benjamini-Hochberg q-value of each result; null where there is no score."
    )


class Gallery(BaseModel):
    """The most and the least anomalous images of a set by the model's anomaly score, the most extreme first."""

    model_config = ConfigDict(frozen=True)
    most: list[Example]
    least: list[Example]


class Health(BaseModel):
    """Answer of `/healthz`: the version of the running service.

    The status is always `alive`, which means that the process runs.
    """

    model_config = ConfigDict(frozen=True)
    status: Literal["alive"]
    version: str = Field(..., description="Version of the service.")


class Histogram(BaseModel):
    """Histogram of a score over one set of images, as the fraction of the images in each bin.

    Fractions are from 0 to 1.
    """

    model_config = ConfigDict(frozen=True)
    set: str
    shares: list[float]


class Histograms(BaseModel):
    """Histograms of a score, one number per image, over several sets of images, with the same bin edges.

    The number is, for example, the log-likelihood.

    Values beyond the edges count in the outermost bars. Edges of the combined score T are evenly spaced in log(1 + T).
    """

    model_config = ConfigDict(frozen=True)
    label: str
    edges: list[float]
    sets: list[Histogram]


class ImageCount(BaseModel):
    """Number of images in a set, and how many of them are not judged.

    These have no finite likelihood, or a size that the calibration is not for.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    images: int
    failed: int = 0
    adapted: bool = Field(False, description="Whether size or colour were converted as the model would not.")


class ImageFacts(BaseModel):
    """Summary of the image sizes and colours in a dataset, used to choose a model's input size and colour mode."""

    model_config = ConfigDict(frozen=True)
    smallest: tuple[int, int] = Field(..., description="Smallest width and smallest height, pixels.")
    largest: tuple[int, int] = Field(..., description="Largest width and largest height, pixels.")
    median_shorter_side: int
    coloured: bool = Field(..., description="Whether any image has colour.")
    channels: int | None = Field(..., description="Channels that every image has as it is; None where they differ.")


class ImageRegion(BaseModel):
    """Region of pixels that touch at sides or corners, all with anomaly values at or above a threshold."""

    model_config = ConfigDict(frozen=True)
    box: tuple[int, int, int, int] = Field(
        ..., description="Left, top, right, bottom in pixels of the upright file; the box covers the whole region."
    )
    area: int = Field(..., description="Area of the region, in pixels of the file.")
    peak: float = Field(..., description="Largest value of the anomaly map in the region.")
    place: tuple[int, int] = Field(..., description="Column and row of that value in the file.")


class ItemError(BaseModel):
    """The error of one image that could not be scored: type, title, HTTP status and detail, as in RFC 9457."""

    model_config = ConfigDict(frozen=True)
    type: str
    title: str
    status: int
    detail: str


class JobDataset(BaseModel):
    """Dataset with the number and shape of its images and, if a job cannot use it, the reason."""

    model_config = ConfigDict(frozen=True)
    name: str
    images: int
    image_shape: list[int] = Field(..., description="Channels, height, width.")
    problem: str | None = Field(
        ..., description="Why the job would be refused with this dataset; null if it would not."
    )
    problem_as_anomalies: str | None = Field(
        ..., description="evaluate: why it cannot be the anomalous images; null if it can, and for other jobs."
    )
    note: str | None = Field(
        ...,
        description="What to know before it is chosen: which images are used, or that they may not suit; else null.",
    )


class JobDatasets(BaseModel):
    """All datasets as choices for a job; each dataset that the job cannot use comes with the reason."""

    model_config = ConfigDict(frozen=True)
    datasets: list[JobDataset]
    suggested: str | None = Field(
        ..., description="The dataset that is clearly meant; null where the user has to choose."
    )


class JobDraft(BaseModel):
    """Job request that leaves the dataset open, sent to ask which datasets the job could use.

    Its fields mean the same as in a job request. Fields on which the answer does not depend are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["train", "score", "calibrate", "evaluate", "limit", "recommend"]
    model: str | None = Field(None, description="The model; not needed for a training or a recommendation.")
    preset: str = Field("snf-glow-small", description="train: the preset.")
    architecture: dict[str, Any] | None = Field(None, description="train: an architecture in place of a preset.")
    parameters: dict[str, Any] = Field({}, description="Parameters of the job.")


class JobRequest(BaseModel):
    """Request to run a background job, such as a training or the scoring of a dataset.

    A job trains, calibrates or evaluates a model, measures its detection limit, scores a dataset, or recommends a
    family of models.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["train", "score", "calibrate", "evaluate", "limit", "recommend"] = Field(
        ...,
        description="`train` a model on a dataset, `score` every image of a dataset to a Parquet file, `calibrate` a model on a dataset without training, `evaluate` how well it separates a dataset's images from others, or measure its detection `limit`: the smallest defects that it finds in good images; or `recommend` a family of models for a dataset, without a model.",
    )
    dataset: str = Field(
        ...,
        description="The dataset to train on, to score, or to calibrate on; for an evaluation, the normal images; for a limit, the good images; for a recommendation, those that the families are compared on.",
    )
    model: str = Field(
        "",
        description="train: name that the model is registered under, a new version if it exists. recommend: none. Otherwise the model, `name`, `name:3` or `name@champion`; version (score, evaluate, limit: and calibration) are fixed when the job is queued.",
    )
    preset: str = Field("snf-glow-small", description="train: the preset of architecture and training.")
    architecture: dict[str, Any] | None = Field(
        None,
        description="train: an architecture in place of a preset: its `levels` with their layers, or a `family` with its numbers, and optionally `name`, the image shape, and default parameters under `training`.",
    )
    parameters: dict[str, Any] = Field(
        {},
        description="All optional, but that an evaluation needs `against` or `corruptions`; unknown ones are refused. Those of a training are in place of the preset's own.",
    )
    promote: bool = Field(
        False,
        description="train: move the alias `live` to the new version, fit or not; the first fit one gets it anyway.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="train: the device; `auto` is a GPU if a running worker has one, else the CPU."
    )
    force: bool = Field(
        False,
        description="train: queue it even if it is expected to need more memory than any running worker has, or more than two weeks.",
    )


class JobView(BaseModel):
    """A background job, with its parameters, status, progress and result.

    It also has the latest metrics, the error of a failed job, and links to further calls.
    """

    model_config = ConfigDict(frozen=True)
    id: str
    type: Literal["train", "score", "calibrate", "evaluate", "limit", "recommend"]
    status: Literal["queued", "starting", "running", "paused", "succeeded", "partial", "failed", "cancelled"] = Field(
        ..., description="`partial`: a scoring that ended, with at least one image that could not be judged."
    )
    queue: str = Field(..., description="Queue of the job, which decides on its device.")
    place_in_line: int | None = Field(
        None, description="Number of jobs ahead of it in its queue, while it waits. Not in lists."
    )
    waits_for: str | None = Field(
        None, description="What a queued job waits for: a worker that serves its queue, or room on the disk."
    )
    dataset: str
    model: str
    preset: str = Field(..., description="Name of the preset, or of the architecture in its place.")
    architecture: dict[str, Any] | None = Field(None, description="The architecture, where there is no preset.")
    parameters: dict[str, Any]
    promote: bool
    device: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    checkpoint_step: int | None = Field(
        ..., description="Step of the newest checkpoint, from which the job would continue."
    )
    cancel_requested: bool
    pause_requested: bool
    retry_of: str | None = Field(..., description="Id of the job of which this is a retry.")
    estimate: Estimate | None = Field(..., description="Expected time and memory of the whole job when it was queued.")
    progress: dict[str, Any] = Field(..., description="step, steps, epoch, images_per_second, eta_seconds, fraction.")
    metrics: dict[str, Any] = Field(
        ..., description="Latest value of each metric of the training; in `evaluation` those of the finished model."
    )
    error: dict[str, Any] | None
    result: dict[str, Any] | None = Field(
        ...,
        description="The registered model version, whether it is live and why it is unfit, the counts of a scoring and its `output` and `plan` if it has one, or the number of the new calibration or detection limit, or the proposed family.",
    )
    links: dict[str, str]


class LimitCell(BaseModel):
    """Detection result for defects of one shape, contrast and size: how many of them were found.

    It has the number of flagged images, and their share with its bounds.

    Each bound is a one-sided 95 % Clopper-Pearson bound.
    """

    model_config = ConfigDict(frozen=True)
    size: int = Field(..., description="Pixels of the image as the model gets it.")
    found: int = Field(..., description="Images that are flagged.")
    images: int
    share: float
    lower: float
    upper: float


class LimitCurve(BaseModel):
    """Fraction of artificial defects detected at each defect size, for defects of one shape and contrast.

    It also has the detection limit.

    The limit is the smallest size from which on, at every larger size too, the lower bound is at least 0.9.
    """

    model_config = ConfigDict(frozen=True)
    shape: Literal["scratch", "spot", "stain", "hole", "missing-part"]
    contrast: int | None = Field(..., description="Grey levels; null for a hole and a missing part.")
    cells: list[LimitCell] = Field(..., description="The smallest size first.")
    limit: int | None = Field(..., description="Pixels; null if the largest size is not found often enough.")
    lower: float | None = Field(..., description="Lower bound of the found share at the limit.")


class LimitResult(BaseModel):
    """Result of a job that measured the smallest defect sizes that a model version still finds.

    It also has the number of the new detection limit.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    ref: str
    links: dict[str, str]
    limit: int = Field(..., description="Its number.")
    calibration: int = Field(..., description="The calibration whose p-values counted.")
    alpha: float = Field(..., description="False-alarm rate at which defects are found.")
    sizes: dict[str, int | None] = Field(
        ...,
        description="Limit in pixels of each shape and contrast; null if the largest defect is not found often enough.",
    )
    not_determinable: str | None = Field(..., description="Why no limit can be stated; else null.")


class Normal(BaseModel):
    """Section of an evaluation report about the normal images.

    It has the dataset, the number of images for each purpose, examples and the mean log-likelihood.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    parts: str = Field(..., description="Which images served which purpose, in words.")
    fit_images: int
    thresholds: ImageCount
    test: ImageCount
    gallery: Gallery
    mean_log_likelihood: float = Field(..., description="Mean log-density in nats, of the `kind` of the report.")
    bits_per_dim: float | None = Field(..., description="Null for a density of features.")


class PreprocessingNote(BaseModel):
    """Changes made to an image before scoring, and a warning if its file is unlike the training images."""

    model_config = ConfigDict(frozen=True)
    id: str = Field(..., description="Digest of the model's preprocessing.")
    resized: bool
    fit: Literal["crop", "stretch", "pad"] | None = Field(
        None,
        description="How it was resized, if it was. Heat maps are of the image after that, boxes are in pixels of the file.",
    )
    converted: str | None = Field(..., description="The colour conversion, if there was any.")
    size: tuple[int, int] | None = Field(
        None, description="Width and height of the upright file in pixels; all boxes are in these pixels."
    )
    warning: str | None = Field(
        ...,
        description="How the file differs from the training images in format or size, if it does. A model can mistake that for an anomaly.",
    )
    notes: list[str] = Field(
        [],
        description="What else was done to the file, in words, if anything: turned by its EXIF orientation, the first frame of a GIF, 16 bits brought to 8. Boxes and heat maps are of the upright image.",
    )


class PresetView(BaseModel):
    """A training preset: a named model architecture, with the training parameters that differ from the defaults."""

    model_config = ConfigDict(frozen=True)
    name: str
    purpose: str = Field(..., description="Its purpose, and how long it trains.")
    family: Literal["glow", "convolutional", "fully-connected", "features", "hybrid"]
    linear: str = Field(..., description="Parametrisation of its linear layers.")
    parameters: dict[str, Any] = Field(
        ..., description="Parameters whose defaults differ from the schema; parameters of a job override them."
    )
    accepts: list[str] = Field(..., description="Names of the parameters that it takes; a job with others is refused.")


class Preview(BaseModel):
    """Link to a PNG grid of images drawn from a model at one training step: the step, and the URL path."""

    model_config = ConfigDict(frozen=True)
    step: int
    url: str = Field(..., description="Path of the PNG.")


class Previews(BaseModel):
    """PNG grids of images drawn from the model at some steps of a training job, earliest first."""

    model_config = ConfigDict(frozen=True)
    job: str
    samples: list[Preview]


class Quantile(BaseModel):
    """Smallest anomaly statistic, in nats, that flags an image as an anomaly at a given false-alarm rate."""

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(..., description="False-alarm rate.")
    statistic: float = Field(
        ...,
        description="Smallest statistic T, nats, with p <= `alpha`; approximate for a calibration of several folds.",
    )


class Rate(BaseModel):
    """Fraction of the anomalous images that an anomaly score detects at a given false-alarm rate.

    It is from 0 to 1; null only in reports of earlier versions, where ``alpha`` was not attainable.
    """

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(
        ..., description="That of the report, or the smallest that the images of the threshold attain."
    )
    share: float | None


class Readiness(BaseModel):
    """Answer of `/readyz`: whether the service can score images.

    It also tells which models failed to load, and how full the queue is.
    """

    model_config = ConfigDict(frozen=True)
    status: Literal["ready", "loading", "draining", "failed", "stuck"]
    reason: str | None = Field(None, description="Why a service is `stuck`, else null.")
    models: dict[str, str] = Field(..., description="State by model name.")
    failed: dict[str, str] = Field(..., description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(..., description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(
        ..., description="Images in the queue or in work, each counted once per draw, and its capacity."
    )


class Reason(BaseModel):
    """One reason why an image is unusual, such as a deviating statistic or an unusual region.

    The reason has the size of the deviation, its share of the evidence, and a sentence about it.
    """

    model_config = ConfigDict(frozen=True)
    feature: str = Field(
        ...,
        description="A statistic of the whole image, with its scale, or `region`; of the features of a backbone `feature-place`, `feature-area`, `feature-mean` or `feature-image`.",
    )
    z: float = Field(
        ...,
        description="Standard deviations from the value expected at the image's complexity; for the features of a backbone the surprise -ln p in nats.",
    )
    share: float = Field(..., description="Its share of the evidence, between 0 and 1.")
    text: str = Field(..., description="The same in words.")
    box: tuple[int, int, int, int] | None = Field(
        None,
        description="Left, top, right, bottom of a region or place, in pixels of the upright file. Of features: the strongest region of the anomaly map; without a region, the most unusual place where the reason has one.",
    )


class Reference(BaseModel):
    """Histogram of the anomaly statistic, in nats, over a model's calibration images."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    calibration: int = Field(..., description="The active calibration; 0 is the model's own.")
    count: int = Field(..., description="Calibration images.")
    smallest_p: float = Field(..., description="Smallest p-value that this number of images can give.")
    edges: list[float] = Field(
        ...,
        description="Edges of the bins, nats, one more than bins. All bins but the last are equally wide and end at the 99.9 % quantile; the last bin extends to the largest T.",
    )
    counts: list[int] = Field(..., description="Calibration images in each bin.")
    quantiles: list[Quantile] = Field(
        ..., description="For every common `alpha` that this number of images can attain."
    )


class ReferenceRequest(BaseModel):
    """Request to create a dataset that refers to images at a storage URL, such as an S3 folder.

    It has the name of the dataset and the location of the images, which are not copied.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(..., description="Name of the dataset.")
    location: str = Field(
        ...,
        description="URL of a folder of images, tar archives (WebDataset) and Parquet files, or of one such file: `s3://bucket/folder`, `gs://`, `az://` or `file:///folder`. It must be below one of `SNF_ALLOWED_LOCATIONS`.",
    )
    column: str | None = Field(
        None,
        description="Column of Parquet files with the images: bytes, or a struct of bytes and path. Default: the only such column, or `image`.",
    )
    inspect: bool = Field(
        False,
        description="Read every image once, for its size, colour and duplicates. Jobs of types other than `score` need that.",
    )


class RegionRates(BaseModel):
    """Shares of defective images where an anomaly map flags the defect, and of normal images where it flags anything.

    Both are for a given false-alarm rate.

    A region is flagged where the map is at or above its threshold.

    The rate is ``alpha``. The values are null where the map has no threshold for this rate.
    """

    model_config = ConfigDict(frozen=True)
    alpha: float
    hit: float | None = Field(..., description="Share of the images with a mask where a region overlaps the defect.")
    false_alarms: float | None = Field(..., description="Share of the normal images with any region.")


class RejectedFile(BaseModel):
    """An uploaded file that was left out of a dataset, and the reason."""

    model_config = ConfigDict(frozen=True)
    path: str
    reason: str


class Result(BaseModel):
    """Metrics of one anomaly score on one set of anomalous images.

    They are AUROC, average precision and false-positive rate, with 95 % confidence intervals, and the fraction of the
    images that is flagged at each false-alarm rate.
    """

    model_config = ConfigDict(frozen=True)
    score: str
    auroc: float
    auroc_interval: tuple[float, float]
    aupr: float = Field(..., description="Average precision, anomalous = positive, at the sizes of these sets.")
    aupr_interval: tuple[float, float]
    fpr95: float = Field(..., description="False-positive rate where 95 % of the anomalous images are found.")
    fpr95_interval: tuple[float, float]
    detected: list[Rate]


class RunResult(BaseModel):
    """Model version that a training run registered, with its measured quality.

    A figure that the model does not have is null.
    """

    model_config = ConfigDict(frozen=True)
    ref: str = Field(..., description="The model version, as name:version.")
    live: bool = Field(..., description="Whether it became live.")
    unfit: dict[str, str] = Field(
        ..., description="Why it is unfit to become live by itself, by code; empty if it is fit."
    )
    architecture: str = Field(..., description="The layers, in words.")
    best_step: int = Field(..., description="Step whose weights were kept.")
    validation_bits_per_dim: float | None = None
    test_bits_per_dim: float | None = None
    test_nats: float | None = Field(None, description="Mean negative log-likelihood of test images, nats an image.")
    reconstruction_error: float | None = Field(None, description="Largest ||I - R W|| over the layers.")


class Sample(BaseModel):
    """An image drawn from a model, as base64 PNG, with the log-likelihood of its 8-bit pixels in nats."""

    model_config = ConfigDict(frozen=True)
    index: int
    png: str = Field(..., description="The image as PNG, base64.")
    log_likelihood: float
    bits_per_dim: float
    kind: str


class Samples(BaseModel):
    """Images drawn from a model, each with its log-likelihood, and the seed that draws the same images again."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    seed: int
    temperature: float
    inverse: Literal["exact", "learned"]
    count: int
    samples: list[Sample]


class Serving(BaseModel):
    """Settings by which a loaded model version computes scores: library, precision, and images at once."""

    model_config = ConfigDict(frozen=True)
    engine: str = Field(
        ..., description="The library that computes: openvino or torch; of a hybrid model for its pixels."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        ...,
        description="Arithmetic of the middle convolutions of coupling networks, that of the active calibration. All else is float32 or better.",
    )
    tile: int = Field(..., description="Images that are computed at once, measured at the first load on this machine.")
    log_det_total: float = Field(..., description="Sum of the cached data-independent log-determinants, nats.")
    log_det_digest: str = Field(..., description="Digest of the weights of these log-determinants.")
    has_learned_inverse: bool
    smallest_p: float
    default_alpha: float


class SizeCount(BaseModel):
    """A width and a height in pixels, and how many images of a dataset have this size."""

    model_config = ConfigDict(frozen=True)
    width: int
    height: int
    images: int


class Split(BaseModel):
    """Division of a dataset into parts for training and calibration, with the number of images in each.

    The parts are for training, for fitting anomaly statistics, and for calibrating p-values.

    If there are ``folds``, there is no calibration part; ``statistics`` is then used for both, by cross-conformal
    prediction.
    """

    model_config = ConfigDict(frozen=True)
    rule: Literal["by-group", "by-image", "in-order"]
    reason: str
    seed: int | None = None
    train: int
    statistics: int
    calibration: int
    groups: dict[str, list[str]] = Field({}, description="Groups of a part, the first 100 by name.")
    folds: list[int] = Field(
        [], description="Images of each fold of `statistics` where there are too few for a calibration part, else none."
    )


class SubfolderReport(BaseModel):
    """Results of the combined score on the anomalous images of one subfolder, such as a kind of defect."""

    model_config = ConfigDict(frozen=True)
    name: str
    images: int = Field(..., description="Images with a score.")
    auroc: float
    detected: list[Rate]


class Term(BaseModel):
    """Contribution of one scale of the flow to a log-likelihood, in nats.

    Scale 0 is the transform of the pixels. A density of features has scale 1 alone; its scale 0 is 0.
    """

    model_config = ConfigDict(frozen=True)
    scale: int
    log_prior: float = Field(..., description="Log-density of the latents that leave the flow at this scale, nats.")
    log_det: float = Field(..., description="Sum of the log-determinants of this scale's bijections, nats.")


class Threshold(BaseModel):
    """P-value threshold that keeps the false-alarm rate within a given limit.

    If p-values up to the threshold are flagged, at most a share `alpha` of normal images is flagged, with 95 %
    confidence.
    """

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(..., description="False-alarm rate.")
    threshold: float | None = Field(..., description="`alpha` for scoring; null where there are too few images.")
    images_needed: int = Field(..., description="Fewest calibration images for a threshold.")


class TrainingRun(BaseModel):
    """Record of a training run with its parameters and its result.

    The record stays when its job or its model is deleted. A run is `unfinished` while it is trained, and stays so if it
    is interrupted, cancelled or killed; that of a job is `failed` once the job is. A run that goes on from its
    checkpoint keeps its record.
    """

    model_config = ConfigDict(frozen=True)
    origin: Literal["job", "command"] = Field(
        ..., description="`job`: a job of the service; `command`: `snf train` on its machine."
    )
    model: str = Field(..., description="Name of the model that is trained.")
    dataset: str
    preset: str = Field(..., description="Name of the preset, or of the architecture in its place.")
    parameters: dict[str, Any] = Field(
        ..., description="All parameters of the training, with the defaults of the preset."
    )
    device: str
    retry_of: str | None = Field(None, description="Run of the job that this job retries, from its checkpoint.")
    id: str = Field(..., description="Identifier, that of the job for a job; ids sort by time.")
    state: Literal["unfinished", "finished", "failed"] = "unfinished"
    attempts: int = Field(1, description="How often it began or went on.")
    started: datetime = Field(..., description="Start of the first attempt, UTC.")
    ended: datetime | None = Field(None, description="When it finished or failed, UTC.")
    steps: int | None = Field(None, description="Optimiser steps of a run that has ended.")
    seconds: float | None = Field(None, description="Duration of its steps or fit, without interruptions.")
    error: str | None = Field(None, description="Why it failed.")
    result: RunResult | None = None


class UndamagedImages(BaseModel):
    """Result on good images before defects are added to them: the fraction that is falsely flagged.

    The interval is a two-sided 95 % Clopper-Pearson interval.
    """

    model_config = ConfigDict(frozen=True)
    flagged: int
    images: int
    share: float | None = Field(..., description="Null without images.")
    interval: tuple[float, float] | None


class UnfitReason(BaseModel):
    """Reason why a model version is not fit to become the live (default) version automatically.

    It has a code, and a sentence with the figures.
    """

    model_config = ConfigDict(frozen=True)
    code: Literal["hardly-trained", "diverged", "learned-inverse-off"]
    detail: str


class Validation(BaseModel):
    """Metrics, such as bits/dim, of a model on held-out validation images at one step of its training."""

    model_config = ConfigDict(extra="allow", frozen=True)
    step: int
    time: datetime
    attempt: int
    bits_per_dim: float | None = None


class WorkerView(BaseModel):
    """A running worker process, with its device (CPU or GPU), its job queues and its current job."""

    model_config = ConfigDict(frozen=True)
    name: str
    device: str
    queues: list[str]
    memory_bytes: int | None = Field(..., description="Memory of its machine or container.")
    train_memory_bytes: int | None = Field(
        ..., description="Most memory that a training may use (`SNF_TRAIN_MEMORY_BYTES`); null: no limit."
    )
    started_at: datetime
    state: Literal["idle", "busy", "not-receiving"] = Field(
        ..., description="`not-receiving`: jobs wait that do not reach the worker; it reconnects, then restarts."
    )
    job: str | None = Field(..., description="Id of the job that it runs.")


class Aliases(BaseModel):
    """All aliases of a model after one of them was changed.

    Each alias has its version. The answer also has the former version of the changed alias, and why its new version is
    unfit, if it is.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    aliases: dict[str, int] = Field(..., description="Version of each alias; `live` is the version of the plain name.")
    previous: int | None = Field(..., description="Former version of the alias; null for a new alias.")
    unfit: list[UnfitReason] = Field(..., description="Why the version of the alias is unfit; empty if it is fit.")


class Anomaly(BaseModel):
    """Anomaly verdict on an image, and its p-value, the rate at which normal images look at least as unusual."""

    model_config = ConfigDict(frozen=True)
    p_value: float = Field(..., description="Conformal p-value: small is anomalous.")
    score: float = Field(..., description="-log10 of the p-value: large is anomalous.")
    is_anomaly: bool = Field(..., description="Whether the p-value is at most alpha.")
    alpha: float = Field(..., description="False-alarm rate of this verdict.")
    statistic: float = Field(..., description="Evidence in nats; it also orders images beyond the smallest p-value.")
    extrapolated: bool = Field(..., description="Whether the image is more anomalous than every calibration image.")
    smallest_p: float = Field(..., description="Smallest p-value that this model's calibration set can give.")
    reasons: list[Reason] | None = None


class Audit(BaseModel):
    """Check of a model's log-likelihoods against a recomputation in float64, on up to 16 images.

    The log-likelihoods are compared as served. The log-determinants of the layers are compared, too. The recomputation
    uses no cached values.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    engine: str = Field(..., description="The library that computes scores: openvino or torch.")
    precision: Literal["float32", "bfloat16"] = Field(
        ..., description="Arithmetic of the middle convolutions of coupling networks in scores."
    )
    images: list[AuditedImage]
    log_dets: list[AuditedLayer] = Field(..., description="Of all layers that have one, in the order of the flow.")
    total: AuditedTotal
    tolerance: float = Field(
        ...,
        description="Largest allowed difference of the least likely image, nats: 0.001 up to 28x28 and 0.00001 per dimension beyond, or a millionth of the log-likelihood where that is more. In bfloat16, twice the largest deviation from float32 in its calibration is added for rounding. Smaller errors then show only in the log-determinants.",
    )
    agrees: bool = Field(..., description="Whether all images, all layers and the total are within their tolerances.")
    seconds: float = Field(..., description="Computing time.")


class CalibrationComparison(BaseModel):
    """Comparison of a model version's p-value calibration with another one, by default the one in use.

    It shows the smallest false-alarm rate and the threshold of both, and how many verdicts on the newest images would
    change.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    before: ComparedCalibration = Field(..., description="The calibration in use, or the one asked for.")
    after: ComparedCalibration
    verdicts: ComparedVerdicts


class CalibrationView(BaseModel):
    """Calibration of a model's p-values as an API answer: dataset, image counts and p-value thresholds.

    Fields are null if the file of the calibration is damaged.
    """

    model_config = ConfigDict(frozen=True)
    number: int = Field(..., description="0 is the model's own calibration.")
    active: bool = Field(..., description="Whether scoring uses it.")
    created: datetime | None
    job: str | None = Field(..., description="The job that made it; null for a model that was not trained by a job.")
    dataset: str | None
    statistics_images: int | None = Field(..., description="Images to which the statistics were fitted.")
    calibration_images: int | None = Field(..., description="Images among which p-values are ranks.")
    copies: int | None = Field(
        None, description="Further calibration images that are copies of others: a group of copies gives one rank."
    )
    tiles: tuple[int, int] | None = Field(
        None, description="Fewest and most tiles of a calibration image: other images are not judged. Null: all are."
    )
    folds: int | None = Field(
        ...,
        description="More than 1: both kinds are the same images, and each fold is judged by the fit to the others.",
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        ..., description="Arithmetic of scores while it is active."
    )
    deviation: Deviation | None = Field(
        ..., description="Distance of scores of its calibration images from float32, nats; null for float32."
    )
    smallest_p: float | None = Field(
        ..., description="Smallest p-value it can give, and so the smallest `alpha` of a request."
    )
    thresholds: list[Threshold] = Field(
        ...,
        description="Thresholds for images like those of the calibration. Empty with several folds, and where an earlier version left suspect images out.",
    )
    problem: str | None = Field(..., description="Why it cannot be used.")
    warning: str | None = Field(
        None, description="`gradient-evidence-ignored`, in words, for a calibration of an earlier version; else null."
    )
    reason: str | None = Field(
        None,
        description="Why it did not become active when it was made, unless it was chosen since, or that it replaced a damaged one; else null.",
    )


class Column(BaseModel):
    """Description of one anomaly score in an evaluation report, with its false-alarm rates on normal images.

    It has a name, a label and a kind. Larger scores are more anomalous.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    label: str
    family: Literal["combined", "thorough", "family", "whole-image", "local", "features", "baseline"]
    false_alarms: list[FalseAlarms]


class DatasetReport(BaseModel):
    """Report on the images of a dataset, made when all of them are first read.

    That is at the upload, or at the inspection of a dataset by reference.

    It covers rejected files, sizes, colours, duplicates, groups and the split into parts.
    """

    model_config = ConfigDict(frozen=True)
    format_version: Literal[1] = 1
    name: str
    created: datetime
    images: int
    bytes: int = Field(..., description="Sum of the originals.")
    rejected: int
    rejected_files: list[RejectedFile] = Field(..., description="The first 100.")
    rejected_by: dict[str, int] = Field(..., description="Rejected files by the slug of their reason.")
    ignored: int = Field(..., description="Skipped by their names: hidden files, those of systems, and texts.")
    formats: dict[str, int]
    modes: dict[str, int] = Field(..., description="Images by the mode of their file, as Pillow names it.")
    coloured: int = Field(..., description="Images with colour; grey in a colour file is grey.")
    sizes: list[SizeCount] = Field(..., description="The 100 most frequent.")
    different_sizes: int
    facts: ImageFacts
    duplicates: Duplicates = Field(..., description="Of equal pixels.")
    near_duplicates: Duplicates = Field(
        ..., description="Of different pixels, by 64-bit difference hashes at most 3 bits apart."
    )
    groups: dict[str, int] = Field(..., description="Images a group, the 100 largest; '' has those in no folder.")
    different_groups: int
    split: Split
    notes: list[str] = Field(..., description="Advice to read before training.")


class FailedImage(BaseModel):
    """An image of a request that could not be scored: its index, its file name and the error."""

    model_config = ConfigDict(frozen=True)
    index: int
    filename: str | None
    status: Literal["error"]
    error: ItemError


class FamilyResult(BaseModel):
    """Measured likelihood, detection limits and speed of one model family in a comparison.

    If the family was not compared, ``unavailable`` gives the reason.
    """

    model_config = ConfigDict(frozen=True)
    family: Literal["features", "pixels", "hybrid"]
    preset: str = Field(..., description="The preset that trains such a model.")
    unavailable: str | None = Field(None, description="Why it was not compared; else null.")
    held_out: float | None = Field(
        None,
        description="Negative log-likelihood of images that the model was not fitted to: bits/dim of pixels, or nats for each value of the features. Smaller is better. The units cannot be compared with each other.",
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
    curves: list[LimitCurve] = Field(
        [],
        description="Found shares and limits by shape and contrast, in pixels of the images of the dataset.",
        validate_default=True,
    )
    mean_rank: float | None = Field(
        None,
        description="Mean over the shapes of the place of the limit among the sizes, from 0; one more than the last where no size is found. Smaller is better.",
    )
    typical_limit: str | None = Field(
        None, description="The size in pixels that the mean rank stands for, such as `4.5` or `over 12`."
    )
    fit_seconds: float | None = Field(None, description="Time that the fit or training to the subset took.")
    seconds_per_1000: float | None = Field(
        None, description="Time to judge 1,000 images, the drawing of defects included."
    )
    steps: int | None = Field(None, description="Optimiser steps of the pixel flow; null without one.")


class HeatMap(BaseModel):
    """Contribution of each pixel to the log-likelihood of an image, and where its anomaly map passes the threshold."""

    model_config = ConfigDict(frozen=True)
    png: str = Field(
        ...,
        description="The image in grey under its colours, PNG, base64. Amber is at the threshold, red at three times that or more. Blue is more likely than usual by as much. Regions are outlined in yellow.",
    )
    layer: str = Field("", description="The colours alone, on a transparent ground: RGBA, PNG, base64.")
    npy: str = Field(..., description="float64 array (channels, H, W) as `.npy`, base64.")
    channels: list[str] = Field(
        ...,
        description="`nats`: the exact map, whose sum is the log-likelihood at the first draw. `z`: the same in standard deviations from the reference images at that pixel. `anomaly`: the map whose regions are listed, larger where the image is more anomalous.",
    )
    scale: int = Field(
        1,
        description="Pixels of the image along each side of a pixel of picture and array: more than 1 for an image of over 1,048,576 pixels that a model scored tile by tile. Boxes are in pixels of the image all the same.",
    )
    lowest_z: float
    highest_z: float
    threshold: float | None = Field(
        None,
        description="Value of the channel `anomaly` that the maps of at most the share `alpha` of images like the calibration images reach anywhere; null for a calibration of an earlier version: calibrate again for regions.",
    )
    regions: list[ImageRegion] | None = Field(
        None,
        description="Regions at or above the threshold, the strongest first, at most 20; null without a threshold.",
    )
    region_count: int | None = Field(None, description="Number of all regions.")


class JobList(BaseModel):
    """A page of background jobs, newest first, with the cursor for the next page."""

    model_config = ConfigDict(frozen=True)
    jobs: list[JobView]
    next: str | None = Field(..., description="Value of `after` for the next page; null for the last page.")


class JobResult(BaseModel):
    """Result of a training job: the model version that it registered.

    It also says whether the version became live and, for an unfit version, why it is unfit.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    ref: str
    links: dict[str, str]
    live: bool | None = Field(None, description="Whether it became live; null for a job of an earlier version.")
    unfit: list[UnfitReason] = Field(
        [], description="Why it is unfit to become live by itself; empty if it is fit.", validate_default=True
    )
    smallest_p: float | None = Field(
        None, description="Smallest p-value that it can give, and so the smallest `alpha`; null as for `live`."
    )


class LimitRecord(BaseModel):
    """Record of the measured detection limits of a model: the smallest defects that it reliably finds.

    The record states which defects were added to images, how many of them were found, and the limits.
    """

    model_config = ConfigDict(frozen=True)
    format_version: Literal[1] = 1
    created: datetime
    job: str | None = None
    weights_sha256: str
    calibration: int | None = Field(..., description="Number of the calibration; null for a model without a registry.")
    calibration_images: int = Field(..., description="Images that p-values are ranks among.")
    smallest_p: float
    alpha: float = Field(..., description="An image is found if its p-value is at most this.")
    dataset: str
    dataset_digest: str = Field(..., description="SHA-256 of the pixels of the good images.")
    part: str = Field(..., description="Which images of the dataset these are, in words.")
    images: int = Field(..., description="Good images; each gets one defect of each shape, contrast and size.")
    image_shape: tuple[int, int, int] = Field(..., description="Channels, height, width of the images, in pixels.")
    seed: int
    shapes: list[Literal["scratch", "spot", "stain", "hole", "missing-part"]]
    contrasts: list[int] = Field(..., description="Grey levels.")
    sizes: list[int] = Field(..., description="The sizes that were tried, in pixels, the smallest first.")
    undamaged: UndamagedImages
    curves: list[LimitCurve]
    not_determinable: str | None = Field(..., description="Why no limit can be stated; else null.")
    seconds: float = Field(..., description="Time that the scoring took.")


class LimitView(BaseModel):
    """A measured detection limit, the size of the smallest defects that a model version finds.

    It says whether the limit belongs to the calibration in use.
    """

    model_config = ConfigDict(frozen=True)
    number: int
    in_use: bool = Field(..., description="Whether it belongs to the calibration in use.")
    limit: LimitRecord


class Localisation(BaseModel):
    """Metrics of how well anomaly maps show the defects of images.

    Masks give the true defects. Larger values of AUROC, AUPRO and AUPIMO are better, and 1 is perfect.
    """

    model_config = ConfigDict(frozen=True)
    masks: str = Field(..., description="The dataset of the masks.")
    images: int = Field(..., description="Images whose mask has a defect.")
    empty_masks: int = Field(..., description="Images whose mask has none; they are left out.")
    unpaired: int = Field(..., description="Images without a mask; they are left out.")
    unpaired_names: list[str] = Field(..., description="The first 20 of them.")
    unused_masks: int = Field(..., description="Masks without an image.")
    unused_names: list[str] = Field(..., description="The first 20 of them.")
    normal_images: int = Field(..., description="Normal images whose maps count as free of defects.")
    pixel_auroc: float = Field(..., description="AUROC of the pixels of defects against all other pixels.")
    aupro: float = Field(
        ...,
        description="Share of each defect that is found, averaged over the defects and over false-positive rates of pixels from 0 to 0.3.",
    )
    aupimo: float | None = Field(
        ...,
        description="Share of the defect that is found in an image, averaged over the logarithm of false-positive rates from 1e-5 to 1e-4 on normal images alone: its mean over the images. Null where the normal images have too few pixels for such rates.",
    )
    aupimo_found: float | None = Field(..., description="Share of the images whose AUPIMO is at least 0.5.")
    regions: list[RegionRates]


class ModelDetail(BaseModel):
    """A model version with its metadata, calibration and loading state.

    It also has the drift (change) of the images that were scored with it.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    version: int
    read_only: bool
    kind: Literal["density", "feature_density"] = Field(
        ..., description="What its log-likelihoods are a density of, as in the list of models."
    )
    state: Literal["idle", "loading", "ready", "failed"]
    reason: str | None
    unfit: list[UnfitReason] = Field(..., description="Why it does not become live by itself; empty if it is fit.")
    size_bytes: int
    manifest: dict[str, Any] = Field(..., description="The manifest of the artifact on disk.")
    calibration: CalibrationView = Field(..., description="The active calibration.")
    serving: Serving | None = Field(..., description="Null until the version is loaded.")
    drift: list[Drift] = Field(
        ...,
        description="Drift of all sources of images together first, then by source; each is absent until an image of it is scored.",
    )


class ModelSummary(BaseModel):
    """Summary of one registered model, as the list of models shows it.

    It has the versions and aliases, and the state and quality of the live version.

    While no version is live, state and quality are those of the newest version.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    versions: list[int]
    aliases: dict[str, int]
    state: Literal["idle", "loading", "ready", "failed", "unfit"] = Field(
        ...,
        description="State of the live version. An `idle` version is loaded at its first request. `unfit`: no version is live, and the plain name answers 409 `no-live-version`.",
    )
    reason: str | None = Field(..., description="Why it failed, or why no version is live.")
    unfit: list[UnfitReason] = Field(..., description="Why the version is unfit; empty if it is fit.")
    read_only: bool | None = Field(..., description="Whether the model ships with the product.")
    architecture: str | None = Field(
        ..., description="Preset of the model, or the number of its layers if it has none."
    )
    kind: Literal["density", "feature_density"] | None = Field(
        ...,
        description="What its log-likelihoods are a density of: `density` of the pixels, or `feature_density` of the features that a frozen network sees at places taken as independent, without bits/dim and samples.",
    )
    image_shape: list[int] | None = Field(..., description="Channels, height, width.")
    fit: Literal["exact", "crop", "stretch", "pad", "tiles"] | None = Field(
        None,
        description="What is done to images of other sizes. `tiles`: they keep their size and are scored tile by tile, and `image_shape` is that of a tile.",
    )
    test_bits_per_dim: float | None
    size_bytes: int | None = Field(..., description="Size of the live version's files.")
    drift_alarms: int = Field(
        0, description="Alarms of drift of the version: of all sources of images together and of each."
    )


class PresetList(BaseModel):
    """List of all training presets, with the JSON Schema of the parameters of a training job.

    The list also has the name of the default preset.
    """

    model_config = ConfigDict(frozen=True)
    presets: list[PresetView]
    default: str = Field(..., description="The preset of a job without `preset`.")
    parameters: dict[str, Any] = Field(..., description="JSON Schema of a training job's `parameters`, with defaults.")


class RecommendationRecord(BaseModel):
    """Result of a comparison of model families, with a proposal and its reasons."""

    model_config = ConfigDict(frozen=True)
    format_version: Literal[1] = 1
    created: datetime
    job: str | None = None
    dataset: str
    dataset_digest: str
    image_shape: tuple[int, int, int] = Field(..., description="Channels, height, width of the images, in pixels.")
    minutes: float = Field(..., description="The time that was given.")
    seconds: float = Field(..., description="Time that it took, without earlier attempts.")
    seed: int
    alpha: float = Field(..., description="A defect is found if the p-value of its image is at most this.")
    smallest_p: float = Field(..., description="The smallest p-value that the comparison can give.")
    images: ComparedImages
    shapes: list[Literal["scratch", "spot", "stain", "hole", "missing-part"]]
    contrasts: list[int] = Field(..., description="Grey levels.")
    sizes: list[int] = Field(..., description="Sizes of the defects in pixels, the smallest first.")
    families: list[FamilyResult]
    proposal: Literal["features", "pixels", "hybrid"] | None = Field(
        ..., description="The proposed family; null if none was measured."
    )
    preset: str | None = Field(..., description="The preset of the proposed family.")
    parameters: dict[str, Any] = Field({}, description="Training parameters to go on with: the options of the images.")
    reasons: list[str] = Field(..., description="Why this family is proposed, or why none is.")
    not_covered: str = Field(..., description="What the comparison does not measure.")
    notes: list[str] = Field([], description="What was reduced, and what a training found unfit.")


class ReferenceRecord(BaseModel):
    """Description of a dataset by reference, whose images are not copied: its location and its files.

    It counts the images, and the files that were ignored or rejected.
    """

    model_config = ConfigDict(frozen=True)
    location: str = Field(..., description="URL of the file or folder.")
    is_file: bool = Field(..., description="Whether the location is a file, else a folder.")
    column: str | None = Field(..., description="Column of Parquet files that was named, if any.")
    by_request: bool = Field(
        False,
        description="Whether a request named the location. Then SNF_ALLOWED_LOCATIONS must still list it when a job reads the images.",
    )
    created: datetime = Field(..., description="When the files were indexed.")
    images: int = Field(..., description="Images, whether or not they can be decoded.")
    files: dict[Literal["image", "tar", "parquet"], int] = Field(..., description="Files with images, by kind.")
    bytes: int = Field(..., description="Size of these files.")
    ignored: int = Field(..., description="Skipped by their names: hidden files, those of systems, texts, and labels.")
    rejected: int = Field(
        ..., description="Files and members of archives that cannot be read, such as compressed archives."
    )
    rejected_files: list[RejectedFile] = Field(..., description="The first 100.")
    rejected_by: dict[str, int] = Field(..., description="Rejected files by the slug of their reason.")
    digest: str = Field(..., description="SHA-256 of names, sizes and versions of the files, in their order.")


class RunDetail(BaseModel):
    """A training run with its learning curve.

    A step that was repeated after an interruption occurs once in the curve.
    """

    model_config = ConfigDict(frozen=True)
    run: TrainingRun
    points: list[CurvePoint]
    validations: list[Validation]
    links: dict[str, str] = Field(..., description="The run, its model, and its job, which may be deleted already.")


class RunList(BaseModel):
    """A page of training runs, newest first, with a cursor for the next page."""

    model_config = ConfigDict(frozen=True)
    runs: list[TrainingRun]
    next: str | None = Field(..., description="Value of `after` for the next page; null for the last page.")


class ScoredImage(BaseModel):
    """The anomaly verdict on one image, and its log-likelihood: a log-density in nats, not a probability.

    `kind` says over what: the pixels in [0, 256), or the features that a frozen network sees in the image. Densities of
    features compare only under one model.
    """

    model_config = ConfigDict(frozen=True)
    index: int = Field(..., description="Place of the image in the request.")
    filename: str | None
    status: Literal["ok"]
    log_likelihood: float
    bits_per_dim: float | None = Field(
        ..., description="Bits for each value of the image; null for a density of features."
    )
    kind: str = Field(
        ...,
        description="`density` of the pixels, `lower_bound` for a model whose number is a bound of it, or `feature_density` of features at places that are taken as independent.",
    )
    draws: Draws | None = None
    terms: list[Term] | None = None
    anomaly: Anomaly
    preprocessing: PreprocessingNote | None = None
    heat_map: HeatMap | None = Field(None, description="With `explain=true`.")


class Scores(BaseModel):
    """The answer to a scoring request: the model version that was used, and a score or an error for each image."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    calibration: int = Field(..., description="Number of the calibration of the verdicts.")
    count: int = Field(..., description="Number of results.")
    results: list[Annotated[ScoredImage | FailedImage, Field(discriminator="status")]]
    fdr: Fdr | None = None


class SetReport(BaseModel):
    """Results of all anomaly scores on one set of anomalous images, with examples.

    They say how well each score separates these images from the normal images.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    kind: Literal["dataset", "corruption"]
    images: ImageCount
    normal_images: int = Field(..., description="Normal images that it is compared with.")
    results: list[Result]
    subfolders: list[SubfolderReport] = Field(
        [],
        description="Of a dataset whose images lie in 2 to 50 folders: each folder, such as a kind of defect.",
        validate_default=True,
    )
    best_baseline: str = Field(..., description="The baseline with the largest AUROC on this very set.")
    auroc_over_baseline: float = Field(..., description="AUROC of the combined score minus that of this baseline.")
    auroc_over_baseline_interval: tuple[float, float]
    curves: list[Curve]
    gallery: Gallery
    localisation: Localisation | None = Field(None, description="Where there are masks.")


class TrainingCurve(BaseModel):
    """Learning curve of a training job: metrics of its training steps, and of its validations.

    A step that was repeated after a restart occurs once.
    """

    model_config = ConfigDict(frozen=True)
    job: str
    points: list[CurvePoint]
    validations: list[Validation]


class WorkerList(BaseModel):
    """All running worker processes, which execute the background jobs, sorted by name."""

    model_config = ConfigDict(frozen=True)
    workers: list[WorkerView]


class CalibrationList(BaseModel):
    """List of all p-value calibrations of a model version, as an API answer.

    They are in ascending order of number. `active` is the number of the calibration in use.
    """

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    active: int
    calibrations: list[CalibrationView]
    comparison: CalibrationComparison | None = Field(None, description="Of a `dry_run`: what would change. Else null.")


class DatasetDetail(BaseModel):
    """Summary of a dataset, with the validation report of its files and URL paths of related resources.

    The report is null for a built-in dataset, and for a dataset by reference that was not inspected.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    origin: Literal["built-in", "stored", "reference"] = Field(
        ..., description="Whether it came with the product, was uploaded, or refers to images that stay where they are."
    )
    images: int
    image_shape: list[int] = Field(
        ...,
        description="Channels, height, width of the training images, by default. Empty for a dataset by reference that was not inspected, which can be scored only.",
    )
    train: int = Field(..., description="Images that fit the flow.")
    statistics: int = Field(
        ..., description="Images that select the model and fit the anomaly statistics; with folds also for p-values."
    )
    calibration: int = Field(..., description="Images that only give p-values; 0 with folds.")
    test: int = Field(..., description="Images that are used by evaluations only.")
    folds: int = Field(
        ...,
        description="Folds of `statistics` for cross-conformal prediction, which replaces the calibration part of fewer than 400 uploaded images. Else 0.",
    )
    smallest: list[int] = Field(
        ..., description="Smallest width and smallest height of the original images, or empty as `image_shape`."
    )
    largest: list[int] = Field(
        ..., description="Largest width and largest height of the original images, or empty as `image_shape`."
    )
    bytes: int = Field(..., description="Size of the original files.")
    created: datetime | None = Field(..., description="Time of the upload; null for built-in datasets.")
    location: str | None = Field(None, description="URL of the images of a dataset by reference, else null.")
    problem: str | None = Field(None, description="Why it cannot be used, if so. Counts are 0 then.")
    report: DatasetReport | None
    reference: ReferenceRecord | None = Field(
        None, description="Files and images at the location of a dataset by reference, else null."
    )
    links: dict[str, str]


class EvaluationReport(BaseModel):
    """Report of an evaluation: how well a model and simple baselines separate normal from anomalous images."""

    model_config = ConfigDict(frozen=True)
    format_version: Literal[1] = 1
    created: datetime
    model: str
    weights_sha256: str
    kind: Literal["density", "feature_density"] = Field(
        "density", description="What the log-likelihoods are a density of: pixels or features."
    )
    calibration: int = Field(..., description="Number of the model's calibration; 0 is the one that it came with.")
    calibration_dataset: str = Field(..., description="Where the model's own p-values come from.")
    calibration_images: int
    alphas: list[float] = Field(
        ...,
        description="False-alarm rates of the combined score: the smallest attainable one in place of smaller defaults.",
    )
    resamples: int | None = Field(None, description="Only in reports of earlier versions.")
    normal: Normal
    columns: list[Column]
    sets: list[SetReport]
    histograms: list[Histograms]
    notes: list[str] = Field(..., description="Notes on how to read the numbers.")


class LimitList(BaseModel):
    """Measurements of the smallest defects that a model version detects, the newest first."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    active: int = Field(..., description="The calibration in use. A limit belongs to one calibration.")
    limits: list[LimitView]


class ModelPage(BaseModel):
    """A page of registered models, with versions, aliases, loading state and quality of each."""

    model_config = ConfigDict(frozen=True)
    models: list[ModelSummary]
    next: str | None = Field(None, description="Value of `after` for the next page; null for the last page.")
