"""Requests and responses of the service as pydantic models.

Generated from the service's OpenAPI document by ``make client-schemas``; do not edit. Unknown fields of a response are
ignored, so that a newer service works with an older client.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class AliasTarget(BaseModel):
    """The version that an alias shall point at."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = Field(..., description="A version of the model.")


class Aliases(BaseModel):
    """The aliases of a model after one was moved."""

    model_config = ConfigDict(frozen=True)
    name: str
    aliases: dict[str, int] = Field(..., description="Alias to version; `live` is what the plain name means.")
    previous: int | None = Field(..., description="Where the alias pointed before; null for a new one.")


class AuditedImage(BaseModel):
    """One image scored twice."""

    model_config = ConfigDict(frozen=True)
    index: int
    source: Literal["pinned", "sample"] = Field(
        ..., description="`pinned`: stored with the model; `sample`: drawn from it, the same at every audit."
    )
    log_likelihood: float = Field(..., description="By the engine, with the cached log-determinants, nats.")
    recomputed: float = Field(
        ..., description="By the flow as it was trained, in float64, every log-determinant computed anew, nats."
    )
    difference: float = Field(..., description="`log_likelihood` - `recomputed`, nats.")


class AuditedLayer(BaseModel):
    """The data-independent log-determinant of one layer."""

    model_config = ConfigDict(frozen=True)
    layer: str
    cached: float = Field(..., description="As stored with the model, nats.")
    recomputed: float = Field(..., description="Computed anew in float64, nats.")
    difference: float = Field(..., description="`cached` - `recomputed`, nats.")


class AuditedTotal(BaseModel):
    """The sum of all data-independent log-determinants."""

    model_config = ConfigDict(frozen=True)
    cached: float = Field(..., description="As scores use it, nats.")
    recomputed: float
    difference: float
    tolerance: float = Field(..., description="Largest difference allowed, nats: in every precision that of float32.")


class CalibrationChoice(BaseModel):
    """Which calibration shall be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    calibration: int = Field(..., description="Its number; 0 is the one that the model came with.")


class CalibrationRequest(BaseModel):
    """Images to calibrate on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str = Field(..., description="Images like those to be scored, none of which shall be flagged.")
    activate: bool = Field(True, description="Whether scoring uses the new calibration from then on.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic that scores have while this calibration is in use. `bfloat16`: that of the middle convolutions of the coupling networks, faster where the CPU has it; how far scores are from float32 is measured and told in `deviation`.",
    )


class CalibrationResult(BaseModel):
    """The calibration that a job made."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    ref: str
    links: dict[str, str]
    calibration: int = Field(..., description="Its number.")
    smallest_p: float = Field(..., description="Smallest p-value that it can give.")


class CallerView(BaseModel):
    """Who is calling, and what it may do."""

    model_config = ConfigDict(frozen=True)
    name: str = Field(..., description="Name of the key; `anyone` where the service asks for none.")
    key: str | None = Field(..., description="Id of the key; null without one.")
    role: Literal["read", "score", "train", "admin"] = Field(..., description="Role of the key; admin without one.")
    may: list[Literal["read", "score", "train", "admin"]] = Field(..., description="Roles that it includes.")


class Curve(BaseModel):
    """A ROC curve, thinned: (false, true) positive rates."""

    model_config = ConfigDict(frozen=True)
    score: str
    points: list[tuple[float, float]]


class CurvePoint(BaseModel):
    """One report of a training; null where the value was not a finite number."""

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
    """One dataset that can be trained on."""

    model_config = ConfigDict(frozen=True)
    name: str
    origin: Literal["built-in", "stored"]
    images: int
    image_shape: list[int] = Field(
        ..., description="Channels, height, width of what a model is trained on, unless its parameters say otherwise."
    )
    train: int = Field(..., description="Images that fit the flow.")
    statistics: int = Field(
        ...,
        description="Images that select the model and fit the anomaly statistics; where there are folds, the reference images that give p-values, too.",
    )
    calibration: int = Field(..., description="Images that give p-values alone; 0 where there are folds.")
    test: int = Field(..., description="Images that only evaluation sees.")
    folds: int = Field(
        ...,
        description="Fewer than 400 uploaded images have no calibration part: so many folds of `statistics` serve both by cross-conformal prediction. Else 0.",
    )
    smallest: list[int] = Field(..., description="Smallest width and smallest height of the images as they came.")
    largest: list[int] = Field(..., description="Largest width and largest height of the images as they came.")
    bytes: int = Field(..., description="Size of the originals.")
    created: datetime | None = Field(..., description="When it was uploaded; null for built-in ones.")
    problem: str | None = Field(None, description="Why it cannot be trained on as it is, if so; counts are 0 then.")


class DatasetList(BaseModel):
    """All datasets, the built-in ones first."""

    model_config = ConfigDict(frozen=True)
    datasets: list[DatasetEntry]


class Deviation(BaseModel):
    """How far images are from the same in float32: of their log-likelihoods, and of their statistics T, in nats."""

    model_config = ConfigDict(frozen=True)
    images: int
    median: float
    quantile_999: float = Field(..., description="99.9 % of the images deviate by less.")
    worst: float
    worst_statistic: float


class Draws(BaseModel):
    """Statistics over several dequantisation draws."""

    model_config = ConfigDict(frozen=True)
    k: int = Field(..., description="Number of draws.")
    mean: float = Field(..., description="Mean of log p over the draws, nats.")
    standard_error: float = Field(..., description="Standard error of that mean, nats.")
    iw_bound: float = Field(..., description="Importance-weighted lower bound of the log-mass, nats.")


class Drift(BaseModel):
    """Whether recent images of a model look like its calibration images, by their p-values."""

    model_config = ConfigDict(frozen=True)
    source: str | None = Field(
        ..., description="The source that the images were sent with; null for all images together."
    )
    images: int = Field(..., description="Images in the window: the newest that were scored.")
    statistic: float | None = Field(
        ...,
        description="Two-sample Kolmogorov-Smirnov distance of the p-values from those of the calibration images; null while there are too few images.",
    )
    p_value: float | None = Field(
        ..., description="How rare a distance this large is without drift; null with `statistic`."
    )
    low_share: float = Field(
        ..., description="Share of images with a p-value of 0.05 or less; about 0.05 without drift."
    )
    alarm: bool = Field(
        ...,
        description="Starts where the p-value is at most the service's threshold, ends where it is past ten times that.",
    )
    since: datetime = Field(..., description="When the oldest image of the window was scored.")
    alarm_since: datetime | None = Field(..., description="When the alarm was first seen, while it lasts.")


class Duplicates(BaseModel):
    """Images that others are like: how many, and examples by path."""

    model_config = ConfigDict(frozen=True)
    images: int = Field(..., description="Images that have another like them.")
    sets: int = Field(..., description="Sets of equal images, or pairs of alike ones.")
    examples: list[list[str]]


class Estimate(BaseModel):
    """What a training job is expected to take."""

    model_config = ConfigDict(frozen=True)
    seconds: float = Field(..., description="Expected time from its start to the registered model.")
    memory_bytes: int = Field(..., description="Expected peak memory of the training process.")
    parameters: int = Field(..., description="Numbers that the model learns.")
    slowness: float = Field(..., description="Measured time over expected time of earlier jobs here; 1 without any.")
    measured: bool = Field(..., description="Whether jobs of this kind have run here, so that `slowness` is known.")
    fits: bool | None = Field(
        ...,
        description="Whether a running worker gives a training that much memory; null where that is not known, as where no worker serves the queue.",
    )
    available_bytes: int | None = Field(
        None, description="Most memory that a running worker of the queue gives a training; null: not known."
    )


class EstimatedJob(BaseModel):
    """A job that would be accepted, and what it is expected to take."""

    model_config = ConfigDict(frozen=True)
    queue: str = Field(..., description="Queue that it would wait in.")
    waiting: int = Field(..., description="Jobs that wait in that queue already.")
    workers: int = Field(..., description="Running workers that serve that queue.")
    estimate: Estimate | None = Field(
        ..., description="Null for what is not known beforehand: a training alone has one."
    )


class Example(BaseModel):
    """One image of a set."""

    model_config = ConfigDict(frozen=True)
    name: str = Field(..., description="Path in the dataset, or part and place.")
    p_value: float
    statistic: float
    log_likelihood: float
    reason: str | None = Field(..., description="What speaks loudest for an anomaly.")
    png: str = Field(..., description="The image as PNG, base64; a large one is made smaller.")


class FalseAlarms(BaseModel):
    """The share of normal images that a score flags, and where it is expected if they are like its calibration's."""

    model_config = ConfigDict(frozen=True)
    alpha: float
    share: float | None = Field(..., description="Null where the calibration is too small for this alpha.")
    interval: tuple[float, float] = Field(..., description="99 % Beta-binomial interval for these numbers of images.")
    inside: bool | None
    calibration_images: int


class Fdr(BaseModel):
    """False-discovery control over one request."""

    model_config = ConfigDict(frozen=True)
    q_values: list[float | None] = Field(
        ..., description="Benjamini-Hochberg q-value beside each result; null where there is no score."
    )


class Gallery(BaseModel):
    """The most and the least anomalous images of a set by the combined score, the extreme one first."""

    model_config = ConfigDict(frozen=True)
    most: list[Example]
    least: list[Example]


class Health(BaseModel):
    """The process answers."""

    model_config = ConfigDict(frozen=True)
    status: Literal["alive"]


class HeatMap(BaseModel):
    """Where the log-likelihood comes from, and where that is unusual."""

    model_config = ConfigDict(frozen=True)
    png: str = Field(
        ..., description="The image in grey under its map, PNG, base64: red is less likely than usual, blue more."
    )
    npy: str = Field(..., description="float64 array (channels, H, W) as `.npy`, base64.")
    channels: list[str] = Field(
        ...,
        description="`nats`: the exact map, whose sum is the log-likelihood at the first draw; `z`: the same in deviations from the reference images at that pixel; `gradients`, with `detail=full`: norm of the gradient with respect to the transformed pixels.",
    )
    lowest_z: float
    highest_z: float


class Histogram(BaseModel):
    """Shares of the images in each bar."""

    model_config = ConfigDict(frozen=True)
    set: str
    shares: list[float]


class Histograms(BaseModel):
    """One number's histograms over sets that share their edges; what lies beyond them is in the outermost bars.

    Those of T are spaced evenly in log(1 + T).
    """

    model_config = ConfigDict(frozen=True)
    label: str
    edges: list[float]
    sets: list[Histogram]


class ImageCount(BaseModel):
    """A set of images: how many were asked for, and how many had no finite likelihood and are left out."""

    model_config = ConfigDict(frozen=True)
    name: str
    images: int
    failed: int = 0
    adapted: bool = Field(False, description="Whether size or colour were converted as the model would not.")


class ImageFacts(BaseModel):
    """What the choice depends on, known without decoding anything again."""

    model_config = ConfigDict(frozen=True)
    smallest: tuple[int, int] = Field(..., description="Smallest width and smallest height, pixels.")
    largest: tuple[int, int] = Field(..., description="Largest width and largest height, pixels.")
    median_shorter_side: int
    coloured: bool = Field(..., description="Whether any image has colour.")
    channels: int | None = Field(..., description="Channels that every image has as it is; None where they differ.")


class ItemError(BaseModel):
    """Why one image could not be scored: the members of a problem."""

    model_config = ConfigDict(frozen=True)
    type: str
    title: str
    status: int
    detail: str


class JobRequest(BaseModel):
    """A job to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["train", "score", "calibrate", "evaluate"] = Field(
        ...,
        description="`train` a model on a dataset, `score` every image of a dataset to a Parquet file, `calibrate` a model on a dataset without training, or `evaluate` how well it tells a dataset's images from others.",
    )
    dataset: str = Field(
        ..., description="The dataset to train on, to score, to calibrate on, or whose images are the normal ones."
    )
    model: str = Field(
        ...,
        description="train: name that the model is registered under, a new version if it exists. Otherwise the model, `name`, `name:3` or `name@champion`; version (score, evaluate: and calibration) are fixed when the job is queued.",
    )
    preset: str = Field("snf-glow-small", description="train: the architecture.")
    parameters: dict[str, Any] | None = Field(
        None,
        description="All optional, unknown ones are refused. train: see TrainingConfig. score: `alpha`, `images_per_part`, `calibration`. calibrate: `activate`. evaluate: `against` (names of anomalous datasets), `corruptions` (graded faults), `images` (most of a set), `alpha`, `calibration`, `thorough`, `adapt` (convert size and colour).",
    )
    promote: bool = Field(
        False, description="train: move the alias `live` to the new version; the first version gets it anyway."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="train: where; `auto` is a GPU where a worker that is running has one, else the CPU."
    )
    force: bool = Field(
        False, description="train: queue it even if it is expected to need more memory than any running worker gives."
    )


class JobResult(BaseModel):
    """The model version that a job registered or calibrated."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    ref: str
    links: dict[str, str]


class JobView(BaseModel):
    """A job as it stands."""

    model_config = ConfigDict(frozen=True)
    id: str
    type: Literal["train", "score", "calibrate", "evaluate"]
    status: Literal["queued", "starting", "running", "paused", "succeeded", "failed", "cancelled"]
    queue: str = Field(..., description="Queue that the job waits in, by the device it runs on.")
    place_in_line: int | None = Field(
        None, description="Jobs of its queue that were sent before this one, while it waits; not in lists."
    )
    dataset: str
    model: str
    preset: str
    parameters: dict[str, Any]
    promote: bool
    device: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    checkpoint_step: int | None = Field(..., description="Step of the newest checkpoint, from which it would go on.")
    cancel_requested: bool
    pause_requested: bool
    retry_of: str | None = Field(..., description="The job that this one tries again.")
    estimate: Estimate | None = Field(..., description="What the whole job was expected to take when it was queued.")
    progress: dict[str, Any] = Field(..., description="step, steps, epoch, images_per_second, eta_seconds, fraction.")
    metrics: dict[str, Any] = Field(
        ..., description="Latest value of each metric of the training; under `evaluation` those of the finished model."
    )
    error: dict[str, Any] | None
    result: dict[str, Any] | None = Field(
        ..., description="The registered model version, what a scoring counted, or the number of the new calibration."
    )
    links: dict[str, str]


class ModelSummary(BaseModel):
    """One model name."""

    model_config = ConfigDict(frozen=True)
    name: str
    versions: list[int]
    aliases: dict[str, int]
    state: Literal["idle", "loading", "ready", "failed"] = Field(
        ..., description="State of the live version; `idle` is loaded when it is first asked for."
    )
    reason: str | None = Field(..., description="Why it failed, if it did.")
    read_only: bool | None = Field(..., description="Whether the model ships with the product.")
    architecture: str | None = Field(..., description="The preset that the model was made from.")
    image_shape: list[int] | None = Field(..., description="Channels, height, width.")
    test_bits_per_dim: float | None
    size_bytes: int | None = Field(..., description="Size of the live version's files.")


class Normal(BaseModel):
    """The normal images."""

    model_config = ConfigDict(frozen=True)
    name: str
    parts: str = Field(..., description="Which images served which purpose, in words.")
    fit_images: int
    thresholds: ImageCount
    test: ImageCount
    gallery: Gallery
    mean_log_likelihood: float
    bits_per_dim: float


class PreprocessingNote(BaseModel):
    """What was done to the image before it was scored."""

    model_config = ConfigDict(frozen=True)
    id: str = Field(..., description="Digest of the model's preprocessing.")
    resized: bool
    converted: str | None = Field(..., description="The colour conversion, if there was one.")
    warning: str | None = Field(
        ...,
        description="How the file differs from those of training, in format or size, if it does: a model may take that for an anomaly.",
    )


class PresetView(BaseModel):
    """A named architecture with the training that goes with it."""

    model_config = ConfigDict(frozen=True)
    name: str
    purpose: str = Field(..., description="What it is for, and how long it takes.")
    family: Literal["glow", "convolutional", "fully-connected"]
    linear: str = Field(..., description="How its linear layers are parametrised and learned.")
    parameters: dict[str, Any] = Field(
        ..., description="Parameters whose defaults differ from those of the schema; what a job asks for comes first."
    )


class Preview(BaseModel):
    """A grid of samples that the flow drew at one step."""

    model_config = ConfigDict(frozen=True)
    step: int
    url: str = Field(..., description="Path of the PNG.")


class Previews(BaseModel):
    """The previews that are kept of a training, the oldest first."""

    model_config = ConfigDict(frozen=True)
    job: str
    samples: list[Preview]


class Quantile(BaseModel):
    """Where a verdict turns."""

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(..., description="False-alarm rate.")
    statistic: float = Field(
        ..., description="Smallest T, nats, with p <= `alpha`; approximate for a calibration of several folds."
    )


class Rate(BaseModel):
    """The share of images that a score flags at a false-alarm rate; null where no threshold can be as strict."""

    model_config = ConfigDict(frozen=True)
    alpha: float
    share: float | None


class Readiness(BaseModel):
    """What the service can do now."""

    model_config = ConfigDict(frozen=True)
    status: Literal["ready", "loading", "draining", "failed"]
    models: dict[str, str] = Field(..., description="State by model name.")
    failed: dict[str, str] = Field(..., description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(..., description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(
        ..., description="Images waiting or in work, each counted once a draw, and how many may."
    )


class Reason(BaseModel):
    """What speaks for an anomaly, the strongest first."""

    model_config = ConfigDict(frozen=True)
    feature: str = Field(
        ..., description="A statistic of the whole image, with its scale, or `region`, or `gradients`."
    )
    z: float = Field(
        ...,
        description="Standard deviations from what is expected given the image's complexity; of `gradients` the surprise in nats.",
    )
    share: float = Field(..., description="Its part of the evidence, between 0 and 1.")
    text: str = Field(..., description="The same in words.")
    box: tuple[int, int, int, int] | None = Field(None, description="Left, top, right, bottom of a region, pixels.")


class Reference(BaseModel):
    """How strange the calibration images of a model are."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    calibration: int = Field(..., description="The calibration in use; 0 is the one that the model came with.")
    count: int = Field(..., description="Calibration images.")
    smallest_p: float = Field(..., description="Smallest p-value that so many images can give.")
    edges: list[float] = Field(
        ...,
        description="Edges of the bins, nats, one more than there are bins. All bins but the last are equally wide and end at the 99.9 % quantile; the last goes on to the largest T.",
    )
    counts: list[int] = Field(..., description="Calibration images in each bin.")
    quantiles: list[Quantile] = Field(..., description="For every usual `alpha` that so many images can attain.")


class RejectedFile(BaseModel):
    """A file that was left out, and why."""

    model_config = ConfigDict(frozen=True)
    path: str
    reason: str


class Result(BaseModel):
    """How well one score tells a set from the normal images; 95 % bootstrap intervals."""

    model_config = ConfigDict(frozen=True)
    score: str
    auroc: float
    auroc_interval: tuple[float, float]
    aupr: float = Field(..., description="Average precision, anomalous = positive, at the sizes of these sets.")
    aupr_interval: tuple[float, float]
    fpr95: float = Field(..., description="False-positive rate where 95 % of the anomalous images are found.")
    fpr95_interval: tuple[float, float]
    detected: list[Rate]


class Sample(BaseModel):
    """One generated image with the likelihood of exactly these 8-bit pixels."""

    model_config = ConfigDict(frozen=True)
    index: int
    png: str = Field(..., description="The image as PNG, base64.")
    log_likelihood: float
    bits_per_dim: float
    kind: str


class Samples(BaseModel):
    """Generated images."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    seed: int
    temperature: float
    inverse: Literal["exact", "learned"]
    count: int
    samples: list[Sample]


class Serving(BaseModel):
    """How a loaded version computes."""

    model_config = ConfigDict(frozen=True)
    engine: str = Field(..., description="The library that computes: openvino or torch.")
    precision: Literal["float32", "bfloat16"] = Field(
        ...,
        description="Arithmetic of the middle convolutions of coupling networks, that of the calibration in use; all else is float32 or better.",
    )
    tile: int = Field(
        ..., description="Images that are computed at once: measured when the model was first loaded here."
    )
    log_det_total: float = Field(..., description="Sum of the cached data-independent log-determinants, nats.")
    log_det_digest: str = Field(..., description="Digest of the weights that they belong to.")
    has_learned_inverse: bool
    smallest_p: float
    default_alpha: float


class SetReport(BaseModel):
    """One anomalous set against the normal images."""

    model_config = ConfigDict(frozen=True)
    name: str
    kind: Literal["dataset", "corruption"]
    images: ImageCount
    normal_images: int = Field(..., description="Normal images that it is told from.")
    results: list[Result]
    best_baseline: str = Field(..., description="The baseline with the largest AUROC on this very set.")
    auroc_over_baseline: float = Field(..., description="AUROC of the combined score minus that of this baseline.")
    auroc_over_baseline_interval: tuple[float, float]
    curves: list[Curve]
    gallery: Gallery


class SizeCount(BaseModel):
    """How many images have one size."""

    model_config = ConfigDict(frozen=True)
    width: int
    height: int
    images: int


class Split(BaseModel):
    """How a dataset's images were shared out: by which rule and why, how many each part has, whose groups.

    Where there are ``folds``, there is no calibration part: ``statistics`` is the reference part that serves both.
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


class Term(BaseModel):
    """One scale's part of a log-likelihood; scale 0 is the pixel transform."""

    model_config = ConfigDict(frozen=True)
    scale: int
    log_prior: float = Field(..., description="Log-density of the latents that leave the flow here, nats.")
    log_det: float = Field(..., description="Sum of the log-determinants of this scale's bijections, nats.")


class Threshold(BaseModel):
    """With p <= `threshold` the false-alarm rate is at most `alpha` with 95 % confidence."""

    model_config = ConfigDict(frozen=True)
    alpha: float = Field(..., description="False-alarm rate.")
    threshold: float | None = Field(
        ..., description="Pass it as `alpha` when scoring; null where too few images are there."
    )
    images_needed: int = Field(..., description="Fewest calibration images for which there is a threshold.")


class Validation(BaseModel):
    """One validation of a training, with whatever else its trainer found then."""

    model_config = ConfigDict(extra="allow", frozen=True)
    step: int
    time: datetime
    attempt: int
    bits_per_dim: float | None = None


class WorkerView(BaseModel):
    """A worker that is running; it has one device and runs one job at a time."""

    model_config = ConfigDict(frozen=True)
    name: str
    device: str
    queues: list[str]
    memory_bytes: int | None = Field(..., description="Memory of its machine or container.")
    train_memory_bytes: int | None = Field(
        ...,
        description="Most memory that each process of a training may get (`SNF_TRAIN_MEMORY_BYTES`); null: no limit.",
    )
    train_processes: int = Field(..., description="Processes that share a training (`SNF_TRAIN_PROCESSES`).")
    started_at: datetime
    state: Literal["idle", "busy", "not-receiving"] = Field(
        ..., description="`not-receiving`: messages wait that it does not get; it reconnects, then starts anew."
    )
    job: str | None = Field(..., description="The job in hand.")


class Anomaly(BaseModel):
    """The calibrated verdict on an image."""

    model_config = ConfigDict(frozen=True)
    p_value: float = Field(..., description="Conformal p-value: small is anomalous.")
    score: float = Field(..., description="-log10 of the p-value: large is anomalous.")
    is_anomaly: bool = Field(..., description="Whether the p-value is at most alpha.")
    alpha: float = Field(..., description="False-alarm rate of this verdict.")
    statistic: float = Field(..., description="Evidence in nats, larger is stranger; orders images where p-values end.")
    extrapolated: bool = Field(..., description="Whether no calibration image was as strange.")
    smallest_p: float = Field(..., description="Smallest p-value that this model's calibration set can give.")
    reasons: list[Reason] | None = None


class Audit(BaseModel):
    """Scores beside what they are without anything cached."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    engine: str = Field(..., description="The library that computes scores: openvino or torch.")
    precision: Literal["float32", "bfloat16"] = Field(
        ..., description="Arithmetic of the middle convolutions of coupling networks in scores."
    )
    images: list[AuditedImage]
    log_dets: list[AuditedLayer] = Field(..., description="Of every layer that has one, in the order of the flow.")
    total: AuditedTotal
    tolerance: float = Field(
        ...,
        description="Largest difference of an image allowed, nats: 0.001 up to 28x28 and 0.00001 a dimension beyond. In bfloat16 twice the worst deviation from float32 that its calibration measured is added: that much is rounding, and smaller errors are not seen in the images, but still in the log-determinants.",
    )
    agrees: bool = Field(..., description="Whether no image and not the total differs by more than is allowed.")
    seconds: float = Field(..., description="Time that was spent computing.")


class CalibrationView(BaseModel):
    """One calibration of a model version; what it is made of is null where its record is damaged."""

    model_config = ConfigDict(frozen=True)
    number: int = Field(..., description="0 is the one that the model came with.")
    active: bool = Field(..., description="Whether scoring uses it.")
    created: datetime | None
    job: str | None = Field(..., description="The job that made it; null for 0 where the model was not trained by one.")
    dataset: str | None
    statistics_images: int | None = Field(..., description="Images that the statistics were fitted to.")
    calibration_images: int | None = Field(..., description="Images that p-values are ranks among.")
    folds: int | None = Field(
        ..., description="More than 1: both kinds are the same images, each fold judged by the others."
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        ..., description="Arithmetic that scores have while it is in use."
    )
    deviation: Deviation | None = Field(
        ..., description="How far scores of its calibration images are from float32, nats; null where it is that."
    )
    smallest_p: float | None = Field(
        ..., description="Smallest p-value it can give: the smallest `alpha` that can be asked."
    )
    thresholds: list[Threshold] = Field(
        ...,
        description="With p <= `threshold` the false-alarm rate is at most `alpha` with 95 % confidence, for images like those of the calibration. Empty where that is not known: with several folds, and where suspect images were left out.",
    )
    problem: str | None = Field(..., description="Why it cannot be used.")


class Column(BaseModel):
    """A score, larger = stranger, and its false alarms on the normal images."""

    model_config = ConfigDict(frozen=True)
    name: str
    label: str
    family: Literal["combined", "thorough", "family", "whole-image", "local", "baseline"]
    false_alarms: list[FalseAlarms]


class DatasetReport(BaseModel):
    """The validation report of a stored dataset."""

    model_config = ConfigDict(frozen=True)
    format_version: Literal[1] = 1
    name: str
    created: datetime
    images: int
    bytes: int = Field(..., description="Sum of the originals.")
    rejected: int
    rejected_files: list[RejectedFile] = Field(..., description="The first 100.")
    rejected_by: dict[str, int] = Field(..., description="Rejected files by the slug of their reason.")
    ignored: int = Field(..., description="Hidden files and those of operating systems.")
    formats: dict[str, int]
    modes: dict[str, int] = Field(..., description="Images by the mode of their file, as Pillow names it.")
    coloured: int = Field(..., description="Images with colour; grey in a colour file is grey.")
    sizes: list[SizeCount] = Field(..., description="The 100 most frequent.")
    different_sizes: int
    facts: ImageFacts
    duplicates: Duplicates = Field(..., description="By pixels.")
    near_duplicates: Duplicates = Field(
        ..., description="Of different pixels, by 64-bit difference hashes at most 3 bits apart."
    )
    groups: dict[str, int] = Field(..., description="Images a group, the 100 largest; '' has those in no folder.")
    different_groups: int
    split: Split
    notes: list[str] = Field(..., description="What to know before training, in words.")


class EvaluationReport(BaseModel):
    """An evaluation: a model's scores on normal images and on anomalous sets, beside trivial baselines."""

    model_config = ConfigDict(frozen=True)
    format_version: Literal[1] = 1
    created: datetime
    model: str
    weights_sha256: str
    calibration: int = Field(..., description="Number of the model's calibration; 0 is the one that it came with.")
    calibration_dataset: str = Field(..., description="Where the model's own p-values come from.")
    calibration_images: int
    alphas: list[float]
    resamples: int
    normal: Normal
    columns: list[Column]
    sets: list[SetReport]
    histograms: list[Histograms]
    notes: list[str] = Field(..., description="What a reader must know to read the numbers rightly.")


class FailedImage(BaseModel):
    """An image that could not be scored."""

    model_config = ConfigDict(frozen=True)
    index: int
    filename: str | None
    status: Literal["error"]
    error: ItemError


class JobList(BaseModel):
    """A page of jobs, newest first."""

    model_config = ConfigDict(frozen=True)
    jobs: list[JobView]
    next: str | None = Field(..., description="Value of `after` for the page that follows, if there is one.")


class ModelDetail(BaseModel):
    """One version of a model: its manifest, and how it is served."""

    model_config = ConfigDict(frozen=True)
    name: str
    version: int
    read_only: bool
    state: Literal["idle", "loading", "ready", "failed"]
    reason: str | None
    size_bytes: int
    manifest: dict[str, Any] = Field(..., description="The artifact's manifest as it stands on disk.")
    calibration: CalibrationView = Field(..., description="The calibration that scoring uses.")
    serving: Serving | None = Field(..., description="Absent until the version is loaded.")
    drift: list[Drift] = Field(
        ..., description="All images together first, then by source; empty until images were scored."
    )


class ModelPage(BaseModel):
    """All models."""

    model_config = ConfigDict(frozen=True)
    models: list[ModelSummary]


class PresetList(BaseModel):
    """All presets, and what a training may be told."""

    model_config = ConfigDict(frozen=True)
    presets: list[PresetView]
    default: str = Field(..., description="The preset of a job that names none.")
    parameters: dict[str, Any] = Field(..., description="JSON Schema of a training job's `parameters`, with defaults.")


class ScoredImage(BaseModel):
    """One image's score. Log-likelihoods are densities over [0,256)^D in nats, never probabilities."""

    model_config = ConfigDict(frozen=True)
    index: int = Field(..., description="Place of the image in the request.")
    filename: str | None
    status: Literal["ok"]
    log_likelihood: float
    bits_per_dim: float
    kind: str = Field(..., description="`density`, or `lower_bound` for a model whose number is a bound.")
    draws: Draws | None = None
    terms: list[Term] | None = None
    anomaly: Anomaly
    preprocessing: PreprocessingNote | None = None
    heat_map: HeatMap | None = Field(None, description="With `explain=true`.")


class Scores(BaseModel):
    """The scores of one request."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    calibration: int = Field(..., description="Number of the calibration that the verdicts are by.")
    count: int = Field(..., description="Number of results.")
    results: list[Annotated[ScoredImage | FailedImage, Field(discriminator="status")]]
    fdr: Fdr | None = None


class TrainingCurve(BaseModel):
    """The course of a training; steps rise strictly, also where an attempt did some of them anew."""

    model_config = ConfigDict(frozen=True)
    job: str
    points: list[CurvePoint]
    validations: list[Validation]


class WorkerList(BaseModel):
    """The workers that said lately that they are alive."""

    model_config = ConfigDict(frozen=True)
    workers: list[WorkerView]


class CalibrationList(BaseModel):
    """The calibrations of a model version, 0 first."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: int
    active: int
    calibrations: list[CalibrationView]


class DatasetDetail(BaseModel):
    """One dataset, with the report of its validation where it was uploaded."""

    model_config = ConfigDict(frozen=True)
    name: str
    origin: Literal["built-in", "stored"]
    images: int
    image_shape: list[int] = Field(
        ..., description="Channels, height, width of what a model is trained on, unless its parameters say otherwise."
    )
    train: int = Field(..., description="Images that fit the flow.")
    statistics: int = Field(
        ...,
        description="Images that select the model and fit the anomaly statistics; where there are folds, the reference images that give p-values, too.",
    )
    calibration: int = Field(..., description="Images that give p-values alone; 0 where there are folds.")
    test: int = Field(..., description="Images that only evaluation sees.")
    folds: int = Field(
        ...,
        description="Fewer than 400 uploaded images have no calibration part: so many folds of `statistics` serve both by cross-conformal prediction. Else 0.",
    )
    smallest: list[int] = Field(..., description="Smallest width and smallest height of the images as they came.")
    largest: list[int] = Field(..., description="Largest width and largest height of the images as they came.")
    bytes: int = Field(..., description="Size of the originals.")
    created: datetime | None = Field(..., description="When it was uploaded; null for built-in ones.")
    problem: str | None = Field(None, description="Why it cannot be trained on as it is, if so; counts are 0 then.")
    report: DatasetReport | None
    links: dict[str, str]
