"""Parameters of each type of job, as types of dictionaries. All are optional.

Generated from the service's OpenAPI document by ``make client-schemas``; do not edit.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class CalibrationParameters(TypedDict):
    """Parameters of a job that calibrates the p-values of a model on a dataset."""

    activate: NotRequired[bool | None]
    """Whether scoring uses the new calibration from then on. Null: unless it is coarser than the one in use."""
    precision: NotRequired[Literal["float32", "bfloat16"]]
    """Arithmetic of the scores that the calibration is made for."""


class EvaluationParameters(TypedDict):
    """Settings that a user chooses for the evaluation of a model on normal and anomalous images.

    They name the datasets to test against, and say whether simulated faults are tested, too. They also limit the number
    of images in a set, and may add a false-alarm rate.

    With ``adapt``, images whose size or colour the model refuses are converted, and the report notes it.
    """

    against: NotRequired[list[str]]
    """Datasets of anomalous images."""
    masks: NotRequired[dict[str, Any]]
    """For datasets in `against` the dataset with masks of their defects: uploaded grey images whose file names pair with those of the anomalous images. Values of at least 128 are defects."""
    corruptions: NotRequired[bool]
    """Also against the normal images with graded faults."""
    images: NotRequired[int]
    """Most images of a set, evenly spread over it."""
    alpha: NotRequired[float | None]
    """A false-alarm rate to report beside 0.01 and 0.05."""
    calibration: NotRequired[int | None]
    """Number of the calibration. Default: the active one."""
    adapt: NotRequired[bool]
    """Convert size and colour where the model would refuse an image."""


class LimitParameters(TypedDict):
    """Settings for measuring a model's detection limit, the smallest defect size that it reliably finds.

    They are the false-alarm rate, the number of images, the shapes and contrasts of the defects, the seed, and the
    calibration.
    """

    alpha: NotRequired[float | None]
    """False-alarm rate. Default: 0.01, or the smallest p-value where that is larger."""
    images: NotRequired[int]
    """Most good images that get a defect."""
    shapes: NotRequired[list[Literal["scratch", "spot", "stain", "hole", "missing-part"]]]
    """Shapes of the defects."""
    contrasts: NotRequired[list[int]]
    """Contrasts of scratch, spot and stain, in grey levels."""
    seed: NotRequired[int]
    """Seed of places, angles and signs."""
    calibration: NotRequired[int | None]
    """Number of the calibration. Default: the active one."""


class RecommendParameters(TypedDict):
    """Settings of a comparison of pixel, feature and hybrid models."""

    image_size: NotRequired[list[int] | int | None]
    """Side, or [height, width], that images are brought to; unset: their own size where all have the same, else a size that suits them. With fit tiles the side of a tile; unset: 256."""
    automatic_side: NotRequired[int]
    """Largest side that is chosen where the images differ in size and image_size is unset."""
    fit: NotRequired[Literal["exact", "crop", "stretch", "pad", "tiles"] | None]
    """How images of another size are brought to the model's, in training and in scoring: exact (they are refused), crop, stretch, pad, or tiles (none are resized; they are scored tile by tile, by presets of features alone); unset: exact where all images have the model's size, else crop."""
    colour: NotRequired[Literal["exact", "grey", "rgb"] | None]
    """Channels of the model: exact (those of the images, others are refused), grey or rgb; unset: exact where all images have the same channels, else rgb."""
    levels: NotRequired[int | None]
    """Grey levels of 16-bit grey files: 4096 for a camera of 12 bits; unset: 65536."""
    minutes: NotRequired[float]
    """About the time of the whole comparison; a quarter trains the pixel flow, 30 % the hybrid model. Features are fitted and limits measured however long it takes."""
    alpha: NotRequired[float]
    """False-alarm rate; the smallest p-value is taken where that is larger."""
    shapes: NotRequired[list[Literal["scratch", "spot", "stain", "hole", "missing-part"]]]
    """Shapes of the defects."""
    contrasts: NotRequired[list[int]]
    """Contrasts of scratch, spot and stain, in grey levels."""
    seed: NotRequired[int]
    """Seed of the subsets, the weights and the defects."""
    backbone: NotRequired[str]
    """The frozen network of features."""
    feature_side: NotRequired[int | None]
    """The shorter side to which images are enlarged for the backbone, at least."""


class ScoringParameters(TypedDict):
    """Parameters of a job that scores all images of a dataset."""

    alpha: NotRequired[float | None]
    """False-alarm rate of the verdicts."""
    output: NotRequired[str | None]
    """URL of a location that gets the scores, such as `s3://bucket/scores/lot-7`: one Parquet file for each part. It must be below one of `SNF_ALLOWED_LOCATIONS`. Default: one table in the folder of the job."""
    images_per_part: NotRequired[int | None]
    """Images that one worker takes at a time. Default: 2,000, or as many as give 10,000 parts."""
    calibration: NotRequired[int | None]
    """Number of the calibration. Default: the active one."""


class TrainingConfig(TypedDict):
    """Settings of a training run: steps, batch size, learning rate, penalties and precision.

    Presets and architecture files have other defaults for some of them. Those of the shipped models are in
    ``models/snf_models/zoo``.
    """

    image_size: NotRequired[list[int] | int | None]
    """Side, or [height, width], that images are brought to; unset: their own size where all have the same, else a size that suits them. With fit tiles the side of a tile; unset: 256."""
    automatic_side: NotRequired[int]
    """Largest side that is chosen where the images differ in size and image_size is unset."""
    fit: NotRequired[Literal["exact", "crop", "stretch", "pad", "tiles"] | None]
    """How images of another size are brought to the model's, in training and in scoring: exact (they are refused), crop, stretch, pad, or tiles (none are resized; they are scored tile by tile, by presets of features alone); unset: exact where all images have the model's size, else crop."""
    colour: NotRequired[Literal["exact", "grey", "rgb"] | None]
    """Channels of the model: exact (those of the images, others are refused), grey or rgb; unset: exact where all images have the same channels, else rgb."""
    levels: NotRequired[int | None]
    """Grey levels of 16-bit grey files: 4096 for a camera of 12 bits; unset: 65536."""
    max_steps: NotRequired[int]
    """Optimiser steps; the learning rate falls to its end. Unlimited where max_minutes alone is given."""
    max_minutes: NotRequired[float | None]
    """Wall-clock budget, from the start of the process to the written model; with max_steps, the schedule follows the one of which more is used."""
    batch_size: NotRequired[int]
    """Images a step."""
    optimizer: NotRequired[Literal["adam", "muon"]]
    """muon takes orthogonal steps with the kernels of coupling nets, and Adam's with all else."""
    learning_rate: NotRequired[float]
    """Adam's step size after the warm-up; muon's is five times that."""
    warmup_steps: NotRequired[int]
    """Steps of linear warm-up."""
    final_learning_rate: NotRequired[float]
    """Share of the step size left after the cosine decay."""
    reconstruction_weight: NotRequired[float]
    """The multiplier of the reconstruction penalty (Keller et al. 2021, eq. 3)."""
    multiplier: NotRequired[Literal["fixed", "geco", "mdmm"]]
    """How the multipliers of the penalty follow the reconstruction errors, if they do."""
    reconstruction_target: NotRequired[float]
    """Mean square error a dimension that geco and mdmm steer each layer to."""
    symmetric_reconstruction: NotRequired[bool]
    """Penalise R W x - x and W R z - z by one half each, instead of the first alone."""
    noise_reconstruction: NotRequired[float]
    """Weight of the reconstruction error of white noise beside that of the images."""
    gradient: NotRequired[Literal["paper", "newton-schulz"]]
    """Stand-in for the inverse in the gradient of log-dets: R, or the nearer 2R - RWR."""
    refresh_inverse_every: NotRequired[int]
    """Steps between projections of the exact inverses on the learned ones; 0: never."""
    corrected_directions: NotRequired[int]
    """Random directions on which the learned inverses of dense and 1x1 layers are made exact after each step, without a determinant; they are not trained then. Set reconstruction_weight to 0 with it. 0: none."""
    suspect_share: NotRequired[float]
    """Share of the training images that may be dirty. After the warm-up this share of the images, those whose log-likelihood is furthest below the median of their batch, is not learned from and does not count in the validation that selects the weights. The same share of the strangest images is left out of the fit of the anomaly statistics. All calibration images give ranks, so that the false-alarm rate holds. Rare but normal images are left out as well. 0: all images count."""
    gradient_clip: NotRequired[float]
    """Largest norm of the gradient of the loss in nats a dimension."""
    ema_decay: NotRequired[float]
    """Decay of the averaged weights that are validated and kept."""
    pixel_transform: NotRequired[Literal["affine", "logit", "marginal"]]
    """The fixed map from pixel values to the real line."""
    augmentation: NotRequired[Literal["none", "flip", "crop", "crop-flip"]]
    """What is done to training images: flip mirrors half of them left to right, crop shifts each by at most 4 % of the side and repeats its edges. Not for images of which side and place tell good from bad."""
    whitening: NotRequired[bool]
    """Start the first 1x1 convolution of each level as the one that whitens its training images."""
    precision: NotRequired[Literal["auto", "float32", "bfloat16"]]
    """Arithmetic of the coupling nets in training; auto takes bfloat16 where the device computes it."""
    recompute: NotRequired[bool]
    """Invertible back-propagation: recompute the inputs of layers from their outputs instead of keeping them in memory; slower, in float32."""
    seed: NotRequired[int]
    """Seeds weights, order and augmentation of the images, and dequantisation noise."""
    validation_images: NotRequired[int]
    """Images of the statistics split used for model selection, at most."""
    validations: NotRequired[int]
    """Validations in a run, evenly spaced, at most: all together take a tenth of the time at most."""
    checkpoint_seconds: NotRequired[float]
    """Longest time between two checkpoints."""
    backbone: NotRequired[str]
    """Feature models: the frozen network, see `snf backbones list`."""
    feature_side: NotRequired[int | None]
    """Feature models: the shorter side to which images are enlarged for the backbone, at least; unset: that of the backbone, at most four times that of the images."""
    feature_steps: NotRequired[int]
    """Feature models: Glow steps that are trained after the closed-form fit, and kept where held-out images become likelier by more than the standard error. Not tried below 400 images. With them the fit is not repeated in folds: the calibration part alone gives ranks."""
    feature_updates: NotRequired[int]
    """Feature models: optimiser steps for training the Glow steps."""
