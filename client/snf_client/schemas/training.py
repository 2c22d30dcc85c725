"""Parameters of a training, presets, curves, and records of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from snf_client.schemas.base import Colour, Fit, RecordModel, RequestModel, ResponseModel

Side = Annotated[int, Field(ge=4, le=1024)]
BothSides = tuple[Side, Side]


def _both_sides(value: object) -> object:
    """Return [height, width] for a side given as a number. Text from a command line is parsed as JSON."""
    with suppress(ValueError, RecursionError):
        value = json.loads(value) if isinstance(value, str) else value
    return (value, value) if isinstance(value, int) else value


OneOrBoth = BeforeValidator(_both_sides, json_schema_input_type=BothSides | Side | None)


class ImageOptions(RequestModel):
    """Options for how training images are brought to one size and one number of colour channels.

    If the size, the fit or the colour is unset, it is chosen from the images. The side of tiles is 256 if it is unset.
    """

    image_size: Annotated[BothSides | None, OneOrBoth] = Field(
        None,
        description="Side, or [height, width], that images are brought to; unset: their own size where all have the "
        "same, else a size that suits them. With fit tiles the side of a tile; unset: 256.",
    )
    automatic_side: Side = Field(
        64, description="Largest side that is chosen where the images differ in size and image_size is unset."
    )
    fit: Fit | None = Field(
        None,
        description="How images of another size are brought to the model's, in training and in scoring: exact (they "
        "are refused), crop, stretch, pad, or tiles (none are resized; they are scored tile by tile, by presets of "
        "features alone); unset: exact where all images have the model's size, else crop.",
    )
    colour: Colour | None = Field(
        None,
        description="Channels of the model: exact (those of the images, others are refused), grey or rgb; unset: exact "
        "where all images have the same channels, else rgb.",
    )
    levels: int | None = Field(
        None,
        ge=256,
        le=2**16,
        description="Grey levels of 16-bit grey files: 4096 for a camera of 12 bits; unset: 65536.",
    )


MAX_STEPS = 10_000_000
"""Largest number of steps of a training: as good as no limit."""
MAX_MINUTES = 60 * 24 * 14
"""Longest training: two weeks."""
Augmentation = Literal["none", "flip", "crop", "crop-flip"]
"""What is done to training images: nothing, flips, shifts, or both as for CIFAR-10 in the paper."""
GROUPS: dict[str, list[str]] = {
    "Budget": ["max_steps", "max_minutes"],
    "Images": [
        *("image_size", "automatic_side", "fit", "colour", "levels"),
        *("pixel_transform", "augmentation", "suspect_share"),
    ],
    "Steps": [
        *("batch_size", "optimizer", "learning_rate", "warmup_steps", "final_learning_rate"),
        *("gradient_clip", "ema_decay"),
        *("whitening", "precision", "recompute", "seed"),
    ],
    "Features": ["backbone", "feature_side", "feature_steps", "feature_updates"],
    "Learned inverses": [
        *("reconstruction_weight", "multiplier", "reconstruction_target", "symmetric_reconstruction"),
        *("noise_reconstruction", "gradient", "refresh_inverse_every", "corrected_directions"),
    ],
    "Validation": ["validations", "validation_images", "checkpoint_seconds"],
}
"""Names of the settings by subject, in the order in which help, documents and forms list them."""


class TrainingConfig(ImageOptions):
    """Settings of a training run: steps, batch size, learning rate, penalties and precision.

    Presets and architecture files have other defaults for some of them. Those of the shipped models are in
    ``models/snf_models/zoo``.
    """

    model_config = ConfigDict(json_schema_extra={"x-groups": {title: [*names] for title, names in GROUPS.items()}})

    max_steps: int = Field(
        2000,
        ge=1,
        le=MAX_STEPS,
        description="Optimiser steps; the learning rate falls to its end. Unlimited where max_minutes alone is given.",
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=MAX_MINUTES,
        description="Wall-clock budget, from the start of the process to the written model; with max_steps, the "
        "schedule follows the one of which more is used.",
    )
    batch_size: int = Field(64, ge=2, le=4096, description="Images a step.")
    optimizer: Literal["adam", "muon"] = Field(
        "adam", description="muon takes orthogonal steps with the kernels of coupling nets, and Adam's with all else."
    )
    learning_rate: float = Field(
        2e-3, gt=0, le=1, description="Adam's step size after the warm-up; muon's is five times that."
    )
    warmup_steps: int = Field(100, ge=0, le=1_000_000, description="Steps of linear warm-up.")
    final_learning_rate: float = Field(
        0.02, ge=0, le=1, description="Share of the step size left after the cosine decay."
    )
    reconstruction_weight: float = Field(
        100.0, ge=0, le=1e6, description="The multiplier of the reconstruction penalty (Keller et al. 2021, eq. 3)."
    )
    multiplier: Literal["fixed", "geco", "mdmm"] = Field(
        "fixed", description="How the multipliers of the penalty follow the reconstruction errors, if they do."
    )
    reconstruction_target: float = Field(
        1e-3, gt=0, description="Mean square error a dimension that geco and mdmm steer each layer to."
    )
    symmetric_reconstruction: bool = Field(
        False, description="Penalise R W x - x and W R z - z by one half each, instead of the first alone."
    )
    noise_reconstruction: float = Field(
        0.0, ge=0, description="Weight of the reconstruction error of white noise beside that of the images."
    )
    gradient: Literal["paper", "newton-schulz"] = Field(
        "paper", description="Stand-in for the inverse in the gradient of log-dets: R, or the nearer 2R - RWR."
    )
    refresh_inverse_every: int = Field(
        0, ge=0, description="Steps between projections of the exact inverses on the learned ones; 0: never."
    )
    corrected_directions: int = Field(
        0,
        ge=0,
        description="Random directions on which the learned inverses of dense and 1x1 layers are made exact after each "
        "step, without a determinant; they are not trained then. Set reconstruction_weight to 0 with it. 0: none.",
    )
    suspect_share: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of the training images that may be dirty. After the warm-up this share of the images, "
        "those whose log-likelihood is furthest below the median of their batch, is not learned from and does not "
        "count in the validation that selects the weights. The same share of the strangest images is left "
        "out of the fit of the anomaly statistics. All calibration images give ranks, so that the false-alarm rate "
        "holds. Rare but normal images are left out as well. 0: all images count.",
    )
    gradient_clip: float = Field(5.0, gt=0, description="Largest norm of the gradient of the loss in nats a dimension.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the averaged weights that are validated and kept."
    )
    pixel_transform: Literal["affine", "logit", "marginal"] = Field(
        "marginal", description="The fixed map from pixel values to the real line."
    )
    augmentation: Augmentation = Field(
        "none",
        description="What is done to training images: flip mirrors half of them left to right, crop shifts each by at "
        "most 4 % of the side and repeats its edges. Not for images of which side and place tell good from bad.",
    )
    whitening: bool = Field(
        False, description="Start the first 1x1 convolution of each level as the one that whitens its training images."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the coupling nets in training; auto takes bfloat16 where the device computes it.",
    )
    recompute: bool = Field(
        False,
        description="Invertible back-propagation: recompute the inputs of layers from their outputs instead of keeping "
        "them in memory; slower, in float32.",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="Seeds weights, order and augmentation of the images, and dequantisation noise."
    )
    validation_images: int = Field(
        1000, ge=1, description="Images of the statistics split used for model selection, at most."
    )
    validations: int = Field(
        20,
        ge=1,
        le=1000,
        description="Validations in a run, evenly spaced, at most: all together take a tenth of the time at most.",
    )
    checkpoint_seconds: float = Field(60.0, ge=0.1, description="Longest time between two checkpoints.")
    backbone: str = Field(
        "efficientnet-lite0", max_length=64, description="Feature models: the frozen network, see `snf backbones list`."
    )
    feature_side: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="Feature models: the shorter side to which images are enlarged for the backbone, at least; unset: "
        "that of the backbone, at most four times that of the images.",
    )
    feature_steps: int = Field(
        0,
        ge=0,
        le=8,
        description="Feature models: Glow steps that are trained after the closed-form fit, and kept where held-out "
        "images become likelier by more than the standard error. Not tried below 400 images. With "
        "them the fit is not repeated in folds: the calibration part alone gives ranks.",
    )
    feature_updates: int = Field(
        300, ge=1, le=1_000_000, description="Feature models: optimiser steps for training the Glow steps."
    )

    @model_validator(mode="before")
    @classmethod
    def _minutes_alone(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("max_minutes") is not None and "max_steps" not in given:
            return {**given, "max_steps": MAX_STEPS}
        return given

    @model_validator(mode="after")
    def _recompute_in_float32(self) -> TrainingConfig:
        if self.recompute and self.precision == "bfloat16":
            raise ValueError("recompute computes in float32: set precision to auto or float32")
        return self


Family = Literal["glow", "convolutional", "fully-connected", "features", "hybrid"]


class PresetView(ResponseModel):
    """A training preset: a named model architecture, with the training parameters that differ from the defaults."""

    name: str
    purpose: str = Field(description="Its purpose, and how long it trains.")
    family: Family
    linear: str = Field(description="Parametrisation of its linear layers.")
    parameters: dict[str, Any] = Field(
        description="Parameters whose defaults differ from the schema; parameters of a job override them."
    )
    accepts: list[str] = Field(description="Names of the parameters that it takes; a job with others is refused.")


class PresetList(ResponseModel):
    """List of all training presets, with the JSON Schema of the parameters of a training job."""

    presets: list[PresetView]
    default: str = Field(description="The preset of a job without `preset`.")
    parameters: dict[str, Any] = Field(description="JSON Schema of a training job's `parameters`, with defaults.")


Origin = Literal["job", "command"]


class RunResult(RecordModel):
    """Model version that a training run registered, with its measured quality.

    A figure that the model does not have is null.
    """

    ref: str = Field(description="The model version, as name:version.")
    live: bool = Field(description="Whether it became live.")
    unfit: dict[str, str] = Field(description="Why it is unfit to become live by itself, by code; empty if it is fit.")
    architecture: str = Field(description="The layers, in words.")
    best_step: int = Field(description="Step whose weights were kept.")
    validation_bits_per_dim: float | None = None
    test_bits_per_dim: float | None = None
    test_nats: float | None = Field(None, description="Mean negative log-likelihood of test images, nats an image.")
    reconstruction_error: float | None = Field(None, description="Largest ||I - R W|| over the layers.")


class TrainingRun(RecordModel):
    """Record of a training run with its parameters and its result.

    The record stays when its job or its model is deleted. A run is `unfinished` while it is trained, and stays so if it
    is interrupted, cancelled or killed; that of a job is `failed` once the job is. A run that goes on from its
    checkpoint keeps its record.
    """

    origin: Origin = Field(description="`job`: a job of the service; `command`: `snf train` on its machine.")
    model: str = Field(description="Name of the model that is trained.")
    dataset: str
    preset: str = Field(description="Name of the preset, or of the architecture in its place.")
    parameters: dict[str, Any] = Field(description="All parameters of the training, with the defaults of the preset.")
    device: str
    retry_of: str | None = Field(None, description="Run of the job that this job retries, from its checkpoint.")
    id: str = Field(description="Identifier, that of the job for a job; ids sort by time.")
    state: Literal["unfinished", "finished", "failed"] = "unfinished"
    attempts: int = Field(1, description="How often it began or went on.")
    started: datetime = Field(description="Start of the first attempt, UTC.")
    ended: datetime | None = Field(None, description="When it finished or failed, UTC.")
    steps: int | None = Field(None, description="Optimiser steps of a run that has ended.")
    seconds: float | None = Field(None, description="Duration of its steps or fit, without interruptions.")
    error: str | None = Field(None, description="Why it failed.")
    result: RunResult | None = None


class CurvePoint(ResponseModel):
    """Metrics of one training step in a learning curve, such as bits per dimension and learning rate.

    A metric is null if it was not finite, or if the training does not have it.
    """

    step: int
    epoch: int | None = None
    time: datetime
    attempt: int
    bits_per_dim: float | None = None
    reconstruction_error: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None


class Validation(ResponseModel):
    """Metrics, such as bits/dim, of a model on held-out validation images at one step of its training."""

    model_config = ConfigDict(extra="allow")

    step: int
    time: datetime
    attempt: int
    bits_per_dim: float | None = None


class TrainingCurve(ResponseModel):
    """Learning curve of a training job: metrics of its training steps, and of its validations.

    A step that was repeated after a restart occurs once.
    """

    job: str
    points: list[CurvePoint]
    validations: list[Validation]


class RunList(ResponseModel):
    """A page of training runs, newest first, with a cursor for the next page."""

    runs: list[TrainingRun]
    next: str | None = Field(description="Value of `after` for the next page; null for the last page.")


class RunDetail(ResponseModel):
    """A training run with its learning curve.

    A step that was repeated after an interruption occurs once in the curve.
    """

    run: TrainingRun
    points: list[CurvePoint]
    validations: list[Validation]
    links: dict[str, str] = Field(description="The run, its model, and its job, which may be deleted already.")
