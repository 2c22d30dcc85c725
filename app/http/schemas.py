"""What the service answers and accepts, one class a JSON object."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""A model's or dataset's name."""
REF = r"^[a-z0-9][a-z0-9._-]{0,63}(:[1-9][0-9]{0,8}|@[a-z0-9][a-z0-9._-]{0,63})?$"
"""A model's name, with a version or an alias."""


class Answer(BaseModel):
    """Base of all answers: fields that were not set are left out of the JSON."""

    model_config = ConfigDict(frozen=True)


class Term(Answer):
    """One scale's part of a log-likelihood; scale 0 is the pixel transform."""

    scale: int
    log_prior: float = Field(description="Log-density of the latents that leave the flow here, nats.")
    log_det: float = Field(description="Sum of the log-determinants of this scale's bijections, nats.")


class Draws(Answer):
    """Statistics over several dequantisation draws."""

    k: int = Field(description="Number of draws.")
    mean: float = Field(description="Mean of log p over the draws, nats.")
    standard_error: float = Field(description="Standard error of that mean, nats.")
    iw_bound: float = Field(description="Importance-weighted lower bound of the log-mass, nats.")


class Reason(Answer):
    """What speaks for an anomaly, the strongest first."""

    feature: str = Field(description="A statistic of the whole image, with its scale, or `region`, or `gradients`.")
    z: float = Field(
        description="Standard deviations from what is expected given the image's complexity; of `gradients` the "
        "surprise in nats."
    )
    share: float = Field(description="Its part of the evidence, between 0 and 1.")
    text: str = Field(description="The same in words.")
    box: tuple[int, int, int, int] | None = Field(None, description="Left, top, right, bottom of a region, pixels.")


class Anomaly(Answer):
    """The calibrated verdict on an image."""

    p_value: float = Field(description="Conformal p-value: small is anomalous.")
    score: float = Field(description="-log10 of the p-value: large is anomalous.")
    is_anomaly: bool = Field(description="Whether the p-value is at most alpha.")
    alpha: float = Field(description="False-alarm rate of this verdict.")
    statistic: float = Field(description="Evidence in nats, larger is stranger; orders images where p-values end.")
    extrapolated: bool = Field(description="Whether no calibration image was as strange.")
    smallest_p: float = Field(description="Smallest p-value that this model's calibration set can give.")
    reasons: list[Reason] | None = None


class PreprocessingNote(Answer):
    """What was done to the image before it was scored."""

    id: str = Field(description="Digest of the model's preprocessing.")
    resized: bool
    converted: str | None = Field(description="The colour conversion, if there was one.")
    warning: str | None = Field(
        description="How the file differs from those of training, in format or size, if it does: a model may take that "
        "for an anomaly."
    )


class ItemError(Answer):
    """Why one image could not be scored: the members of a problem."""

    type: str
    title: str
    status: int
    detail: str


class HeatMap(Answer):
    """Where the log-likelihood comes from, and where that is unusual."""

    png: str = Field(
        description="The image in grey under its map, PNG, base64: red is less likely than usual, blue more."
    )
    npy: str = Field(description="float64 array (channels, H, W) as `.npy`, base64.")
    channels: list[str] = Field(
        description="`nats`: the exact map, whose sum is the log-likelihood at the first draw; `z`: the same in "
        "deviations from the reference images at that pixel; `gradients`, with `detail=full`: norm of the gradient "
        "with respect to the transformed pixels."
    )
    lowest_z: float
    highest_z: float


class ScoredImage(Answer):
    """One image's score. Log-likelihoods are densities over [0,256)^D in nats, never probabilities."""

    index: int = Field(description="Place of the image in the request.")
    filename: str | None
    status: Literal["ok"]
    log_likelihood: float
    bits_per_dim: float
    kind: str = Field(description="`density`, or `lower_bound` for a model whose number is a bound.")
    draws: Draws | None = None
    terms: list[Term] | None = None
    anomaly: Anomaly
    preprocessing: PreprocessingNote | None = None
    heat_map: HeatMap | None = Field(None, description="With `explain=true`.")


class FailedImage(Answer):
    """An image that could not be scored."""

    index: int
    filename: str | None
    status: Literal["error"]
    error: ItemError


class Fdr(Answer):
    """False-discovery control over one request."""

    q_values: list[float | None] = Field(
        description="Benjamini-Hochberg q-value beside each result; null where there is no score."
    )


SCORED_DIGIT: dict[str, Any] = {
    "model": "mnist-snf-glow",
    "version": 1,
    "calibration": 0,
    "count": 1,
    "results": [
        {
            "index": 0,
            "filename": "00027-4.png",
            "status": "ok",
            "log_likelihood": -530.8778072765649,
            "bits_per_dim": 0.9769066069845753,
            "kind": "density",
            "terms": [
                {"scale": 0, "log_prior": 0.0, "log_det": 544.3473383340622},
                {"scale": 1, "log_prior": -510.6915591873723, "log_det": -501.72580759381134},
                {"scale": 2, "log_prior": -564.8021776041618, "log_det": 501.9943987747183},
            ],
            "anomaly": {
                "p_value": 0.982003599280144,
                "score": 0.007886920416063863,
                "is_anomaly": False,
                "alpha": 0.01,
                "statistic": 0.0828927750221693,
                "extrapolated": False,
                "smallest_p": 0.0001999600079984003,
                "reasons": [
                    {
                        "feature": "region",
                        "z": 2.272150855854165,
                        "share": 0.22180949317593476,
                        "text": "rows 18-25, columns 8-15: plainer than its surroundings suggest",
                        "box": [8, 18, 16, 26],
                    },
                    {
                        "feature": "reconstruction-2",
                        "z": 1.2610127191876652,
                        "share": 0.18438409359875352,
                        "text": "channels combine unusually at scale 2",
                        "box": None,
                    },
                    {
                        "feature": "vertical-1",
                        "z": -1.393819336959264,
                        "share": 0.16553160504578013,
                        "text": "alternates along columns at scale 1",
                        "box": None,
                    },
                ],
            },
            "preprocessing": {
                "id": "sha256:c050e1521a00f8c7cedbb4645e81cac3c9ece06fccbd403b4aac0c3697d69649",
                "resized": False,
                "converted": None,
                "warning": None,
            },
        }
    ],
}
"""What `mnist-snf-glow` answers for tests/data/mnist/00027-4.png; a test compares."""


class Scores(Answer):
    """The scores of one request."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [SCORED_DIGIT]})

    model: str
    version: int
    calibration: int = Field(description="Number of the calibration that the verdicts are by.")
    count: int = Field(description="Number of results.")
    results: list[Annotated[ScoredImage | FailedImage, Field(discriminator="status")]]
    fdr: Fdr | None = None


class Sample(Answer):
    """One generated image with the likelihood of exactly these 8-bit pixels."""

    index: int
    png: str = Field(description="The image as PNG, base64.")
    log_likelihood: float
    bits_per_dim: float
    kind: str


class Samples(Answer):
    """Generated images."""

    model: str
    version: int
    seed: int
    temperature: float
    inverse: Literal["exact", "learned"]
    count: int
    samples: list[Sample]


class JobRequest(BaseModel):
    """A job to do."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "type": "train",
                    "dataset": "mnist-mini",
                    "model": "my-digits",
                    "preset": "snf-glow-tiny",
                    "parameters": {"max_steps": 200, "batch_size": 64, "seed": 0},
                },
                {"type": "score", "dataset": "mnist-mini", "model": "mnist-snf-glow", "parameters": {"alpha": 0.01}},
                {"type": "calibrate", "dataset": "line-1", "model": "my-parts"},
                {
                    "type": "evaluate",
                    "dataset": "fashion-mnist",
                    "model": "fashion-snf-glow",
                    "parameters": {"against": ["mnist"], "corruptions": True},
                },
            ]
        },
    )

    type: Literal["train", "score", "calibrate", "evaluate"] = Field(
        description="`train` a model on a dataset, `score` every image of a dataset to a Parquet file, `calibrate` a "
        "model on a dataset without training, or `evaluate` how well it tells a dataset's images from others."
    )
    dataset: Name = Field(
        description="The dataset to train on, to score, to calibrate on, or whose images are the normal ones."
    )
    model: str = Field(
        pattern=REF,
        description="train: name that the model is registered under, a new version if it exists. Otherwise the model, "
        "`name`, `name:3` or `name@champion`; version (score, evaluate: and calibration) are fixed when the job is "
        "queued.",
    )
    preset: str = Field("snf-glow-small", description="train: the architecture.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="All optional, unknown ones are refused. train: see TrainingConfig. "
        "score: `alpha`, `images_per_part`, `calibration`. calibrate: `activate`. evaluate: `against` (names of "
        "anomalous datasets), `corruptions` (graded faults), `images` (most of a set), `alpha`, `calibration`, "
        "`thorough`, `adapt` (convert size and colour).",
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


class Estimate(Answer):
    """What a training job is expected to take."""

    seconds: float = Field(description="Expected time from its start to the registered model.")
    memory_bytes: int = Field(description="Expected peak memory of the training process.")
    parameters: int = Field(description="Numbers that the model learns; 0 where they were not counted in time.")
    slowness: float = Field(description="`seconds` over those of the machine that the assumed speed is from.")
    measured: bool = Field(description="Whether trainings have run here, so that `seconds` follow from theirs.")
    basis: Literal["earlier jobs", "measured", "assumed", "guessed"] | None = Field(
        None,
        description="Where `seconds` come from: trainings that ran here; the measured speed of the machine; the speed "
        "of another machine, a rough guess; a guess from the sizes of images and batches, as the work was not counted "
        "within a second (ask again). null: a job of an earlier version.",
    )
    fits: bool | None = Field(
        description="Whether a running worker gives a training that much memory; null where that is not known, as "
        "where no worker serves the queue, or the memory is guessed."
    )
    available_bytes: int | None = Field(
        None, description="Most memory that a running worker of the queue gives a training; null: not known."
    )


class EstimatedJob(Answer):
    """A job that would be accepted, and what it is expected to take."""

    queue: str = Field(description="Queue that it would wait in.")
    waiting: int = Field(description="Jobs that wait in that queue already.")
    workers: int = Field(description="Running workers that serve that queue.")
    estimate: Estimate | None = Field(description="Null for what is not known beforehand: a training alone has one.")


class WorkerView(Answer):
    """A worker that is running; it has one device and runs one job at a time."""

    name: str
    device: str
    queues: list[str]
    memory_bytes: int | None = Field(description="Memory of its machine or container.")
    train_memory_bytes: int | None = Field(
        description="Most memory that each process of a training may get (`SNF_TRAIN_MEMORY_BYTES`); null: no limit."
    )
    train_processes: int = Field(description="Processes that share a training (`SNF_TRAIN_PROCESSES`).")
    started_at: datetime
    state: Literal["idle", "busy", "not-receiving"] = Field(
        description="`not-receiving`: messages wait that it does not get; it reconnects, then starts anew."
    )
    job: str | None = Field(description="The job in hand.")


class WorkerList(Answer):
    """The workers that said lately that they are alive."""

    workers: list[WorkerView]


class JobView(Answer):
    """A job as it stands."""

    id: str
    type: Literal["train", "score", "calibrate", "evaluate"]
    status: Literal["queued", "starting", "running", "paused", "succeeded", "failed", "cancelled"]
    queue: str = Field(description="Queue that the job waits in, by the device it runs on.")
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
    checkpoint_step: int | None = Field(description="Step of the newest checkpoint, from which it would go on.")
    cancel_requested: bool
    pause_requested: bool
    retry_of: str | None = Field(description="The job that this one tries again.")
    estimate: Estimate | None = Field(description="What the whole job was expected to take when it was queued.")
    progress: dict[str, Any] = Field(description="step, steps, epoch, images_per_second, eta_seconds, fraction.")
    metrics: dict[str, Any] = Field(
        description="Latest value of each metric of the training; under `evaluation` those of the finished model."
    )
    error: dict[str, Any] | None
    result: dict[str, Any] | None = Field(
        description="The registered model version, what a scoring counted, or the number of the new calibration."
    )
    links: dict[str, str]


class JobList(Answer):
    """A page of jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="Value of `after` for the page that follows, if there is one.")


class Health(Answer):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Answer):
    """What the service can do now."""

    status: Literal["ready", "loading", "draining", "failed"]
    models: dict[str, str] = Field(description="State by model name.")
    failed: dict[str, str] = Field(description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(description="Images waiting or in work, each counted once a draw, and how many may.")
