"""Estimates of the time and memory of a training run, from counted operations and a machine's speed."""

from __future__ import annotations

import math
from dataclasses import replace

from pydantic import BaseModel

from models.datasets import DatasetSummary
from models.flows.architecture import Architecture, FeatureArchitecture, HybridArchitecture, PixelArchitecture
from models.training.config import INITIALIZATION_IMAGES, TrainingConfig
from models.training.cost.feature_work import feature_work
from models.training.cost.flow_work import FROZEN_BATCH, FlowWork, flow_work
from models.training.cost.operation_counter import Work
from models.training.cost.throughput import ASSUMED, Throughput
from models.training.expected_ranks import whole_folds
from models.training.fit_feature_flows import CHOICE_FOLDS, KEPT_BYTES
from models.training.precision import training_precision
from models.training.validation import FINAL_SAMPLES, PREVIEW_SAMPLES, validation_tile
from models.training.validation_plan import EVALUATION_SHARE, PhaseSteps, plan_validations

PROGRAM_BYTES = 400_000_000
"""Memory of Python and its libraries once a training process has loaded everything."""


class TrainingEstimate(BaseModel, frozen=True):
    """Estimated seconds, bytes and learned numbers of a training run."""

    parameters: int  # of flows over features the most that they may have
    memory_bytes: int  # peak resident memory of the process
    start_seconds: float  # until the first step
    training_seconds: float  # with validations, checkpoints and previews; or the fit of features alone
    evaluation_seconds: float  # all after the last step

    @property
    def seconds(self) -> float:
        return self.start_seconds + self.training_seconds + self.evaluation_seconds


def estimate_training(
    architecture: Architecture,
    config: TrainingConfig,
    splits: DatasetSummary,
    throughput: Throughput = ASSUMED,
    *,
    device: str = "cpu",
    host: Throughput = ASSUMED,
    slowdown: float = 1.0,
) -> TrainingEstimate:
    """Estimate a run from its counted work. ``host`` has the rates of the CPU beside a CUDA device."""
    if tuple(splits.image_shape) != architecture.image_shape:
        raise ValueError(f"expected images {architecture.image_shape} of the architecture, got {splits.image_shape}")
    if isinstance(architecture, FeatureArchitecture):
        return _features(architecture, config, splits, throughput if device == "cpu" else host, slowdown, whole=True)
    if isinstance(architecture, HybridArchitecture):
        pixels = estimate_training(
            architecture.pixels, config, splits, throughput, device=device, host=host, slowdown=slowdown
        )
        on_cpu = throughput if device == "cpu" else host
        return _together(pixels, _features(architecture.features, config, splits, on_cpu, slowdown, whole=False))
    flow = _flow_work(architecture, config, splits, device)
    start = slowdown * (throughput.start_seconds + throughput.seconds(flow.initialization))
    training = slowdown * _training_seconds(flow, config, splits, throughput)
    evaluation = slowdown * _evaluation_seconds(flow, splits, throughput if device == "cpu" else host)
    if config.max_minutes is not None:
        limit = 60 * config.max_minutes
        evaluation = min(evaluation, EVALUATION_SHARE * limit)
        training = min(training, max(limit - start - evaluation, 0.0))
    return TrainingEstimate(
        parameters=flow.parameters,
        memory_bytes=_peak_bytes(flow, splits),
        start_seconds=start,
        training_seconds=training,
        evaluation_seconds=evaluation,
    )


def _features(
    architecture: FeatureArchitecture,
    config: TrainingConfig,
    splits: DatasetSummary,
    throughput: Throughput,
    slowdown: float,
    *,
    whole: bool,
) -> TrainingEstimate:
    """Estimate the fit of flows over features; ``whole`` if it is repeated without each fold."""
    steps = 0 if splits.folds else config.feature_steps
    work, folds = feature_work(architecture.model_copy(update={"steps": steps})), whole_folds(config, splits)
    folds = folds if whole else 0
    fits, pairs = 1 + folds, folds * max(folds - 1, 0)
    fitted = splits.tiles * (splits.train + (splits.statistics + splits.calibration if folds else 0))
    passed = (work.backbone + work.moments) * fitted + (work.choice + work.layers) * fits
    kept = min(KEPT_BYTES, math.ceil(fitted * work.feature_bytes)) if folds or config.suspect_share else 0
    repeated = work.backbone if fitted * work.feature_bytes > KEPT_BYTES else Work()
    if config.suspect_share and folds:
        passed = passed + (repeated + work.scoring) * (fitted * fits) + (work.choice + work.layers) * fits
    elif config.suspect_share:
        # A first fit finds the suspects, which are left out of a second one.
        passed = passed * 2 + (work.backbone + work.scoring) * fitted
    if steps:
        passed = passed + work.update * config.feature_updates
    if folds:
        passed = passed + (repeated + work.scoring * (folds - 1)) * fitted + work.layers * pairs
    ranked = fitted if folds else splits.tiles * (splits.statistics + splits.calibration)
    held_out = (work.backbone + work.scoring * fits) * (ranked + splits.tiles * splits.test)
    # Of the images of each fold under the fits without one other fold, and of all images under all fits, in float64.
    evidence = math.ceil(fitted) * 8 * architecture.rows * architecture.columns * 2 * folds
    weights = work.layer_bytes * fits
    choosing = work.moment_bytes * 5 * CHOICE_FOLDS
    images = splits.train + splits.statistics + splits.calibration + splits.test
    # Images in tiles are mapped from a file, and a tile is in memory at a time.
    data = math.prod(splits.image_shape) * (1 if splits.tiles > 1 else images)
    phases = max(choosing, work.moment_bytes * CHOICE_FOLDS + work.layer_bytes * pairs, 5 * weights)
    return TrainingEstimate(
        parameters=work.parameters * fits,
        memory_bytes=PROGRAM_BYTES + data + work.batch_bytes + phases + kept + evidence,
        start_seconds=slowdown * throughput.start_seconds,
        training_seconds=slowdown * throughput.seconds(passed),
        evaluation_seconds=slowdown * (throughput.seconds(held_out) + weights / throughput.disk_bytes_per_second),
    )


def _together(pixels: TrainingEstimate, features: TrainingEstimate) -> TrainingEstimate:
    """Return the estimate of a hybrid model, whose features are fitted after the last step of its pixels."""
    return TrainingEstimate(
        parameters=pixels.parameters + features.parameters,
        memory_bytes=pixels.memory_bytes + features.memory_bytes - PROGRAM_BYTES,
        start_seconds=pixels.start_seconds,
        training_seconds=pixels.training_seconds,
        evaluation_seconds=pixels.evaluation_seconds + features.training_seconds + features.evaluation_seconds,
    )


def phases_in_steps(
    architecture: PixelArchitecture | HybridArchitecture, config: TrainingConfig, splits: DatasetSummary
) -> PhaseSteps:
    """Estimate the other phases in steps, by the rates of the reference machine."""
    pixels = architecture.pixels if isinstance(architecture, HybridArchitecture) else architecture
    flow = _flow_work(pixels, config, splits)
    step = _step_seconds(flow, config, ASSUMED)
    fixed, image = _validation_seconds(flow, splits.image_shape, ASSUMED)
    evaluation, fit = _evaluation_seconds(flow, splits, ASSUMED), 0.0
    if isinstance(architecture, HybridArchitecture):
        features = _features(architecture.features, config, splits, ASSUMED, 1.0, whole=False)
        evaluation, fit = evaluation + features.evaluation_seconds, features.training_seconds
    quality = ASSUMED.seconds(flow.quality)
    return PhaseSteps(fixed / step, image / step, quality / step, fit / step, evaluation / step)


def _flow_work(
    architecture: PixelArchitecture, config: TrainingConfig, splits: DatasetSummary, device: str = "cpu"
) -> FlowWork:
    batch, first = min(config.batch_size, splits.train), min(INITIALIZATION_IMAGES, splits.train)
    return flow_work(architecture, config, batch, first, training_precision(config, device))


def _step_seconds(flow: FlowWork, config: TrainingConfig, throughput: Throughput) -> float:
    step = throughput.seconds(flow.step)
    if config.refresh_inverse_every:
        step += throughput.seconds(flow.refresh) / config.refresh_inverse_every
    return step


def _validation_seconds(
    flow: FlowWork, image_shape: tuple[int, int, int], throughput: Throughput
) -> tuple[float, float]:
    """Return the time of a validation without its images, and the time of each image."""
    tile = validation_tile(image_shape)
    drawn = _in_tiles(flow.preview, min(PREVIEW_SAMPLES, tile)) * (PREVIEW_SAMPLES / FROZEN_BATCH)
    work = flow.constant_log_det + flow.quality + flow.preview_freezing + drawn
    fixed = throughput.seconds(work) + _checkpoint_seconds(flow, throughput)
    return fixed, throughput.seconds(_in_tiles(flow.scoring, tile)) / FROZEN_BATCH


def _in_tiles(work: Work, tile: int) -> Work:
    """Return the work of ``FROZEN_BATCH`` images as a part of a tile, whose images share the calls of PyTorch."""
    return replace(work, calls=work.calls * FROZEN_BATCH / max(tile, FROZEN_BATCH))


def _checkpoint_seconds(flow: FlowWork, throughput: Throughput) -> float:
    # Weights, averages and two moments.
    return 4 * 4 * flow.parameters / throughput.disk_bytes_per_second


def _training_seconds(flow: FlowWork, config: TrainingConfig, splits: DatasetSummary, throughput: Throughput) -> float:
    step = _step_seconds(flow, config, ASSUMED)
    fixed, image = (seconds / step for seconds in _validation_seconds(flow, splits.image_shape, ASSUMED))
    plan = plan_validations(config, splits.statistics, config.max_steps, PhaseSteps(fixed, image))
    fixed, image = _validation_seconds(flow, splits.image_shape, throughput)
    validations = plan.count * (fixed + plan.images * image)
    steps = config.max_steps * _step_seconds(flow, config, throughput)
    return (steps + validations) * (1 + _checkpoint_seconds(flow, throughput) / config.checkpoint_seconds)


def _evaluation_seconds(flow: FlowWork, splits: DatasetSummary, throughput: Throughput) -> float:
    held_out = splits.statistics + splits.calibration + splits.test
    work = flow.constant_log_det + flow.freezing + flow.scoring * (held_out / FROZEN_BATCH)
    work = work + flow.sampling * (FINAL_SAMPLES / FROZEN_BATCH)
    return throughput.seconds(work) + 4 * flow.parameters / throughput.disk_bytes_per_second


def _peak_bytes(flow: FlowWork, splits: DatasetSummary) -> int:
    weights = 4 * flow.parameters
    initialising = 2 * weights + flow.initialization_bytes
    # Weights, averages, gradients and two moments.
    stepping = 5 * weights + flow.saved_bytes + flow.passing_bytes
    # A checkpoint holds its largest file, the moments, in memory; a preview freezes a copy of the averages.
    validating = 5 * weights + max(2 * weights, weights + flow.frozen_bytes)
    # Sealing the model freezes it once more.
    evaluating = weights + 2 * flow.frozen_bytes
    images = splits.train + splits.statistics + splits.calibration + splits.test
    data = images * math.prod(splits.image_shape)
    # Loading holds the images as they are read, by parts, and while they are hashed.
    return PROGRAM_BYTES + max(3 * data, data + max(initialising, stepping, validating, evaluating))
