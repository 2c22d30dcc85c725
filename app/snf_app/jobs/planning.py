from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from snf_app.http.errors import Problem, field_problem, invalid, invalid_fields
from snf_app.jobs.model_job_checks import CHECKS, check_output, check_recommendation, require_model, unknown_dataset
from snf_app.jobs.parameters import refuse_conversions
from snf_client.schemas.jobs import Estimate, JobRequest
from snf_client.schemas.training import MAX_MINUTES
from snf_models.datasets import DatasetStore, DatasetSummary, dataset_names, summarize
from snf_models.errors import (
    ArchitectureInvalid,
    BackboneMissing,
    BackboneUnfit,
    DatasetNotFound,
    DatasetUnfit,
    PresetNotFound,
    SettingUnsupported,
)
from snf_models.flows.architecture import Architecture
from snf_models.naming import is_name
from snf_models.pipeline.architecture_file import find_recipe
from snf_models.pipeline.presets import ExpectedRanks, TrainingRecipe
from snf_models.registry.registry import Registry
from snf_models.training.config import TrainingConfig
from snf_worker.jobs.measured_trainings import MeasuredTraining, MeasuredTrainings, kind_of_training
from snf_worker.jobs.record import DeviceKind, Queue
from snf_worker.jobs.submission import training_queue
from snf_worker.jobs.worker_registry import WorkerInfo, WorkerRegistry
from snf_worker.settings import Settings


@dataclass(frozen=True)
class JobPlan:
    """Where a checked job would run; ``preset`` is a training's preset or architecture, "" for other jobs."""

    model: str
    queue: Queue
    workers: int
    estimate: Estimate | None
    calibration: int | None = None
    preset: str = ""


def plan_job(
    request: JobRequest,
    settings: Settings,
    registry: Registry,
    datasets: DatasetStore,
    workers: WorkerRegistry,
    trainings: MeasuredTrainings,
) -> JobPlan:
    """Check that a job can succeed, on the disk and in the job store, without queueing it; raise 422."""
    if request.type == "train":
        return _plan_training(request, settings, datasets, workers, trainings)
    if request.type == "recommend":
        check_recommendation(request, settings.data_dir, datasets)
        trainers = sum(Queue.TRAIN_CPU in worker.queues for worker in workers.workers())
        return JobPlan("", Queue.TRAIN_CPU, trainers, None)
    require_model(request)
    model, calibration = CHECKS[request.type](request, registry, settings.data_dir, datasets)
    check_output(request, settings.allowed_locations, settings.home)
    serving = sum(Queue.SCORE in worker.queues for worker in workers.workers())
    return JobPlan(model, Queue.SCORE, serving, None, calibration)


def require_feasible(plan: JobPlan) -> None:
    """Raise 422 for a training that an earlier one shows to take over two weeks, or more than every worker's memory."""
    estimate = plan.estimate
    if estimate is None:
        return
    if estimate.seconds is not None and estimate.seconds > 60 * MAX_MINUTES:
        days = estimate.seconds / 86_400
        long = f"{days:.0f} days" if days < 1000 else f"{days / 365.25:,.0f} years"
        raise Problem(
            422,
            "too-long-expected",
            "The job is expected to take too long",
            f"it is expected to take {long}; expected at most {MAX_MINUTES // 1440} days. Fewer steps, a smaller "
            'preset or max_minutes take less; "force": true queues it all the same',
            extensions={"seconds": estimate.seconds, "available_seconds": 60 * MAX_MINUTES},
        )
    if estimate.fits is not False:
        return
    raise Problem(
        422,
        "out-of-memory-expected",
        "The job is not expected to fit into memory",
        f"it is expected to need {estimate.memory_bytes} bytes; expected at most {estimate.available_bytes}, the most "
        f"that a running worker of {plan.queue} gives a training. A smaller batch_size or preset needs less; "
        '"force": true queues it all the same',
        extensions={"memory_bytes": estimate.memory_bytes, "available_bytes": estimate.available_bytes},
    )


def _plan_training(
    request: JobRequest,
    settings: Settings,
    datasets: DatasetStore,
    workers: WorkerRegistry,
    trainings: MeasuredTrainings,
) -> JobPlan:
    if not is_name(request.model):
        raise invalid("/body/model", f"{request.model!r} is not a name; a new version is numbered by itself")
    recipe, architecture, config, dataset = check_training(request, settings.data_dir, datasets, settings.backbones_dir)
    closed_form = architecture.kind == "feature_density"
    if closed_form and request.device == "cuda":
        raise invalid("/body/device", f"{request.preset} is fitted in closed form, on a CPU")
    running = workers.workers()
    queue = Queue.TRAIN_CPU if closed_form else training_queue(request.device, running)
    device: DeviceKind = "cuda" if queue is Queue.TRAIN_GPU else "cpu"
    serving = [worker for worker in running if queue in worker.queues]
    memories = [_memory_for_training(worker, queue) for worker in serving]
    available = max((memory for memory in memories if memory is not None), default=None)
    ranks = ExpectedRanks.of(architecture, config, dataset)
    measured = trainings.latest(kind_of_training(architecture, config, device))
    seconds = math.inf if measured is None else measured.seconds(config.max_steps, dataset.images)
    if config.max_minutes is not None:
        seconds = min(seconds, 60 * config.max_minutes)
    estimate = Estimate(
        seconds=seconds if math.isfinite(seconds) else None,
        memory_bytes=None if measured is None else measured.memory_bytes,
        fits=_fits(measured, dataset.images, available),
        available_bytes=available,
        ranked_images=ranks.images,
        smallest_alpha=ranks.smallest_alpha,
        images_for_default=ranks.images_for_default,
    )
    return JobPlan(request.model, queue, len(serving), estimate, preset=recipe.name)


def _fits(measured: MeasuredTraining | None, images: int, available: int | None) -> bool | None:
    """Return whether a training fits into memory; None if no training of its kind with as many images has shown it."""
    if measured is None or available is None:
        return None
    if measured.memory_bytes <= available:
        return True if images <= measured.images else None
    return False if images >= measured.images else None


def _memory_for_training(worker: WorkerInfo, queue: Queue) -> int | None:
    """Return the most memory in bytes that a worker gives a training; None if it is not known."""
    if worker.train_memory_bytes is not None:
        return worker.train_memory_bytes
    # The memory of the machine says nothing of what a GPU has, nor of what a training on it takes.
    return None if queue is Queue.TRAIN_GPU else worker.memory_bytes


def _check_recipe(request: JobRequest) -> TrainingRecipe:
    """Return a training request's preset or own architecture as a recipe; raise 422 if it is invalid."""
    if request.architecture is not None and "preset" in request.model_fields_set:
        raise invalid("/body/preset", "expected a preset or an architecture, got both")
    try:
        return find_recipe(request.preset, request.architecture)
    except PresetNotFound as error:
        raise invalid("/body/preset", error.detail) from error
    except ArchitectureInvalid as error:
        raise invalid("/body/architecture", error.detail) from error


def check_training(
    request: JobRequest, data_dir: Path | None, store: DatasetStore, backbones: Path | None = None
) -> tuple[TrainingRecipe, Architecture, TrainingConfig, DatasetSummary]:
    """Return a training's recipe, architecture, settings and dataset, read from the disk; raise 422."""
    recipe = _check_recipe(request)
    refuse_conversions(TrainingConfig, request.parameters)
    try:
        config = recipe.config(request.parameters)
    except ValidationError as error:
        found = [field_problem(item, ("body", "parameters"), recipe.parameters) for item in error.errors()]
        raise invalid_fields(found) from error
    try:
        dataset = summarize(request.dataset, data_dir, store, config)
    except DatasetNotFound as error:
        raise unknown_dataset(request.dataset, dataset_names(data_dir, store)) from error
    try:
        architecture = recipe.architecture_for(dataset.image_shape, config, backbones)
    except DatasetUnfit as error:
        raise invalid("/body/dataset", error.detail) from error
    except ArchitectureInvalid as error:
        setting = error.setting if isinstance(error, SettingUnsupported) else None
        pointer = f"/body/parameters/{setting}" if setting in request.parameters else "/body/architecture"
        raise invalid(pointer, error.detail) from error
    except (BackboneMissing, BackboneUnfit) as error:
        raise invalid("/body/parameters/backbone", error.detail) from error
    return recipe, architecture, config, dataset
