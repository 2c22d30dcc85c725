"""Background jobs and their results."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, StrictBool

from snf_client.schemas.base import REF_PATTERN, JobType, Name, RequestModel, ResponseModel
from snf_client.schemas.models import UnfitReason


class JobRequest(RequestModel):
    """Request to run a background job, such as a training or the scoring of a dataset."""

    type: JobType = Field(
        description="`train` a model on a dataset, `score` every image of a dataset to a Parquet file, `calibrate` a "
        "model on a dataset without training, `evaluate` how well it separates a dataset's images from others, or "
        "measure its detection `limit`: the smallest defects that it finds in good images; or `recommend` a family of "
        "models for a dataset, without a model."
    )
    dataset: Name = Field(
        description="The dataset to train on, to score, or to calibrate on; for an evaluation, the normal images; "
        "for a limit, the good images; for a recommendation, those that the families are compared on."
    )
    model: str = Field(
        "",
        pattern=REF_PATTERN,
        description="train: name that the model is registered under, a new version if it exists. recommend: none. "
        "Otherwise the model, `name`, `name:3` or `name@champion`; version (score, evaluate, limit: and calibration) "
        "are fixed when the job is queued.",
    )
    preset: str = Field("snf-glow-small", description="train: the preset of architecture and training.")
    architecture: dict[str, Any] | None = Field(
        None,
        description="train: an architecture in place of a preset: its `levels` with their layers, or a `family` with "
        "its numbers, and optionally `name`, the image shape, and default parameters under `training`.",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="All optional, but that an evaluation needs `against` or `corruptions`; unknown ones are refused. "
        "Those of a training are in place of the preset's own.",
    )
    promote: StrictBool = Field(
        False,
        description="train: move the alias `live` to the new version, fit or not; the first fit one gets it anyway.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="train: the device; `auto` is a GPU if a running worker has one, else the CPU."
    )
    force: StrictBool = Field(
        False,
        description="train: queue it even if it is expected to need more memory than any running worker has, or more "
        "than two weeks.",
    )


class Estimate(ResponseModel):
    """Expected duration in seconds and peak memory in bytes of a training job, by the latest one of its kind.

    Trainings are of one kind if they have the same architecture, image shape, device and settings, but for steps,
    minutes, seed and learning rate.
    """

    seconds: float | None = Field(
        description="Expected time from its start to the registered model, `max_minutes` at most. null: unknown until "
        "it runs; then `eta_seconds` of its progress follows from its own steps."
    )
    memory_bytes: int | None = Field(
        description="Peak memory of the training process of the latest one of its kind. null: unknown until it runs."
    )
    fits: bool | None = Field(
        description="Whether a running worker gives a training that much memory; null if that is not known: no "
        "worker serves the queue, or no training of its kind with as many images has run."
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


class EstimatedJob(ResponseModel):
    """Estimate for a job that was checked but not queued: its worker queue, expected time and memory."""

    queue: str = Field(description="Queue that it would wait in.")
    waiting: int = Field(description="Jobs that wait in that queue already.")
    workers: int = Field(description="Running workers that serve that queue.")
    waits_for: str | None = Field(None, description="What it would wait for where no running worker serves that queue.")
    estimate: Estimate | None = Field(description="Null for what is not known beforehand: a training alone has one.")


class JobView(ResponseModel):
    """A background job, with its parameters, status, progress and result."""

    id: str
    type: JobType
    status: Literal["queued", "starting", "running", "paused", "succeeded", "partial", "failed", "cancelled"] = Field(
        description="`partial`: a scoring that ended, with at least one image that could not be judged."
    )
    queue: str = Field(description="Queue of the job, which decides on its device.")
    place_in_line: int | None = Field(
        None, description="Number of jobs ahead of it in its queue, while it waits. Not in lists."
    )
    waits_for: str | None = Field(
        None, description="What a queued job waits for: a worker that serves its queue, or room on the disk."
    )
    dataset: str
    model: str
    preset: str = Field(description="Name of the preset, or of the architecture in its place.")
    architecture: dict[str, Any] | None = Field(None, description="The architecture, where there is no preset.")
    parameters: dict[str, Any]
    promote: bool
    device: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    checkpoint_step: int | None = Field(description="Step of the newest checkpoint, from which the job would continue.")
    cancel_requested: bool
    pause_requested: bool
    retry_of: str | None = Field(description="Id of the job of which this is a retry.")
    estimate: Estimate | None = Field(description="Expected time and memory of the whole job when it was queued.")
    progress: dict[str, Any] = Field(description="step, steps, epoch, images_per_second, eta_seconds, fraction.")
    metrics: dict[str, Any] = Field(
        description="Latest value of each metric of the training; in `evaluation` those of the finished model."
    )
    error: dict[str, Any] | None
    result: dict[str, Any] | None = Field(
        description="The registered model version, whether it is live and why it is unfit, the counts of a scoring "
        "and its `output` and `plan` if it has one, or the number of the new calibration or detection limit, or the "
        "proposed family."
    )
    links: dict[str, str]


class JobList(ResponseModel):
    """A page of background jobs, newest first, with the cursor for the next page."""

    jobs: list[JobView]
    next: str | None = Field(description="Value of `after` for the next page; null for the last page.")


class Preview(ResponseModel):
    """Link to a PNG grid of images drawn from a model at one training step: the step, and the URL path."""

    step: int
    url: str = Field(description="Path of the PNG.", examples=["/v1/jobs/06f8m2q1x3z4c5v6b7n8m9k0j1/samples/40"])


class Previews(ResponseModel):
    """PNG grids of images drawn from the model at some steps of a training job, earliest first."""

    job: str
    samples: list[Preview]


class _VersionResult(ResponseModel):
    model: str
    version: int
    ref: str = Field(examples=["my-digits:1"])
    links: dict[str, str]


class JobResult(_VersionResult):
    """Result of a training job: the model version that it registered."""

    live: bool | None = Field(None, description="Whether it became live; null for a job of an earlier version.")
    unfit: list[UnfitReason] = Field([], description="Why it is unfit to become live by itself; empty if it is fit.")
    smallest_p: float | None = Field(
        None, description="Smallest p-value that it can give, and so the smallest `alpha`; null as for `live`."
    )


class CalibrationResult(_VersionResult):
    """Result of a calibration job: the new calibration of a model version's p-values."""

    calibration: int = Field(description="Its number.")
    smallest_p: float = Field(description="Smallest p-value that it can give.")
    active: bool | None = Field(
        None, description="Whether it became the active calibration; null for jobs of earlier versions."
    )
    reason: str | None = Field(None, description="Why it did not, or that it replaced a damaged one; else null.")


class LimitResult(_VersionResult):
    """Result of a job that measured the smallest defect sizes that a model version still finds."""

    limit: int = Field(description="Its number.")
    calibration: int = Field(description="The calibration whose p-values counted.")
    alpha: float = Field(description="False-alarm rate at which defects are found.")
    sizes: dict[str, int | None] = Field(
        description="Limit in pixels of each shape and contrast; null if the largest defect is not found often enough."
    )
    not_determinable: str | None = Field(description="Why no limit can be stated; else null.")


class JobDraft(RequestModel):
    """Job request that leaves the dataset open, sent to ask which datasets the job could use.

    Its fields mean the same as in a job request. Fields on which the answer does not depend are left out.
    """

    type: JobType
    model: str | None = Field(
        None, pattern=REF_PATTERN, description="The model; not needed for a training or a recommendation."
    )
    preset: str = Field("snf-glow-small", description="train: the preset.")
    architecture: dict[str, Any] | None = Field(None, description="train: an architecture in place of a preset.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of the job.")


class JobDataset(ResponseModel):
    """Dataset with the number and shape of its images and, if a job cannot use it, the reason."""

    name: str
    images: int
    image_shape: list[int] = Field(description="Channels, height, width.")
    problem: str | None = Field(description="Why the job would be refused with this dataset; null if it would not.")
    problem_as_anomalies: str | None = Field(
        description="evaluate: why it cannot be the anomalous images; null if it can, and for other jobs."
    )
    note: str | None = Field(
        description="What to know before it is chosen: which images are used, or that they may not suit; else null."
    )


class JobDatasets(ResponseModel):
    """All datasets as choices for a job; each dataset that the job cannot use comes with the reason."""

    datasets: list[JobDataset]
    suggested: str | None = Field(description="The dataset that is clearly meant; null where the user has to choose.")


class ScoringParameters(RequestModel):
    """Parameters of a job that scores all images of a dataset."""

    alpha: float | None = Field(None, gt=0, le=1, description="False-alarm rate of the verdicts.")
    output: str | None = Field(
        None,
        max_length=1024,
        description="URL of a location that gets the scores, such as `s3://bucket/scores/lot-7`: one Parquet file for "
        "each part. It must be below one of `SNF_ALLOWED_LOCATIONS`. Default: one table in the folder of the job.",
        examples=["s3://lots/scores/lot-7"],
    )
    images_per_part: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Images that one worker takes at a time. Default: 2,000, or as many as give 10,000 parts.",
    )
    calibration: int | None = Field(None, ge=0, description="Number of the calibration. Default: the active one.")
