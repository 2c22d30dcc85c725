from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from snf_app.http.errors import Problem, field_problem, invalid, invalid_fields, problem_of
from snf_client.schemas.base import NAME_PATTERN, JobType
from snf_client.schemas.calibrations import CalibrationParameters
from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.jobs import Estimate, JobRequest, ScoringParameters
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendParameters
from snf_client.schemas.training import MAX_MINUTES, ImageOptions
from snf_models.anomaly.reference_images import as_seen, check_shape, check_summary
from snf_models.bulk.plan import MAX_PARTS, require_scorable
from snf_models.datasets import DatasetStore, DatasetSummary, count_images, dataset_names, summarize
from snf_models.errors import (
    AlphaUnattainable,
    ArchitectureInvalid,
    ArtifactError,
    BackboneMissing,
    BackboneUnfit,
    DatasetNotFound,
    DatasetUnfit,
    LocationRefused,
    ModelNotFound,
    PresetNotFound,
    SettingUnsupported,
)
from snf_models.evaluation.checks import check_anomalous, check_masks, check_normals
from snf_models.flows.architecture import Architecture, features_of
from snf_models.limits.good_images import check_unused
from snf_models.locations.location import allowed_location
from snf_models.naming import is_name, parse_ref
from snf_models.pipeline.architecture_file import find_recipe
from snf_models.pipeline.presets import ExpectedRanks, TrainingRecipe
from snf_models.recommendation.rule import check_train_images
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import ModelVersion, Registry
from snf_models.texts import choices
from snf_models.training.config import TrainingConfig
from snf_runtime.anomaly.calibration import attainable_alpha
from snf_worker.jobs.record import DeviceKind, ModelJobType, Queue
from snf_worker.jobs.submission import training_queue
from snf_worker.jobs.worker_registry import (
    MeasuredTraining,
    MeasuredTrainings,
    WorkerInfo,
    WorkerRegistry,
    kind_of_training,
)
from snf_worker.settings import Settings

PARAMETERS: dict[JobType, type[BaseModel]] = {
    "train": TrainingConfig,
    "score": ScoringParameters,
    "calibrate": CalibrationParameters,
    "evaluate": EvaluationParameters,
    "limit": LimitParameters,
    "recommend": RecommendParameters,
}


TRAINING_ONLY = ("preset", "architecture", "promote", "device")
"""Members of a job request that no type but a training has."""
CONVERTED: dict[type, tuple[str, ...]] = {
    bool: ("int_type", "float_type"),
    str: ("int_type", "float_type", "bool_type"),
    int: ("bool_type",),
    float: ("bool_type",),
}
"""Errors of strict validation that the service has too, by the type of the value."""
PREFIX = "#/components/schemas/"
REQUESTS = ("JobRequest", "JobDraft")
"""Requests with the ``type`` of a job and its ``parameters``, which are validated after the request itself."""


def refuse_conversions(kind: type[BaseModel], parameters: Mapping[str, Any]) -> None:
    """Raise 422 for parameters that pydantic would convert, such as "5" for 5; others pass, valid or not."""
    try:
        kind.model_validate_json(json.dumps(parameters), strict=True)
    except ValidationError as error:
        # Other errors may be those of strictness alone, as 5.0 for 5.
        wrong = [item for item in error.errors() if item["type"] in CONVERTED.get(type(item["input"]), ())]
        if not wrong:
            return
        raise invalid_fields([field_problem(item, ("body", "parameters")) for item in wrong]) from error


def add_schemas(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    kinds: list[tuple[type[BaseModel], Literal["validation"]]] = [(kind, "validation") for kind in PARAMETERS.values()]
    schemas |= models_json_schema(kinds, ref_template=f"{PREFIX}{{model}}")[1]["$defs"]
    references = {job_type: {"$ref": PREFIX + kind.__name__} for job_type, kind in PARAMETERS.items()}
    for name in REQUESTS:
        request = schemas[name]
        described = request["properties"]["parameters"]["description"]
        request["properties"]["parameters"] = {"anyOf": [*references.values()], "description": described}
        request["allOf"] = [
            {"if": {"properties": {"type": {"const": job_type}}}, "then": _rule(job_type, reference, request)}
            for job_type, reference in references.items()
        ]


def _rule(job_type: JobType, parameters: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a job request of one type: its parameters, and which other members it needs or lacks."""
    members: dict[str, Any] = {"parameters": parameters}
    if job_type == "train":
        both = {"required": ["preset", "architecture"], "properties": {"architecture": {"type": "object"}}}
        # A draft, which has no dataset, needs no name yet.
        named = {"model": {"pattern": NAME_PATTERN}} if "dataset" in request["required"] else {}
        return {"properties": members | named, "required": list(named), "not": both}
    members |= {name: False for name in TRAINING_ONLY if name in request["properties"]}
    if job_type == "recommend":
        return {
            "properties": members | {"model": {"type": "null"} if "anyOf" in request["properties"]["model"] else False}
        }
    rule: dict[str, Any] = {"properties": members | {"model": {"type": "string"}}, "required": ["model"]}
    if job_type == "evaluate":
        against = {"required": ["against"], "properties": {"against": {"minItems": 1}}}
        corruptions = {"required": ["corruptions"], "properties": {"corruptions": {"const": True}}}
        rule["required"].append("parameters")
        rule["allOf"] = [{"properties": {"parameters": {"anyOf": [against, corruptions]}}}]
    return rule


Parameters = TypeVar("Parameters", bound=BaseModel)


def check_scoring(
    request: JobRequest, registry: Registry, data_dir: Path | None, datasets: DatasetStore
) -> tuple[str, int]:
    """Raise 422 for an invalid scoring; return the model as ``name:version`` and the calibration's number."""
    parameters = read_parameters(ScoringParameters, request)
    version = find_calibrated(registry, request.model, parameters.calibration)
    _check_alpha(parameters.alpha, version)
    known = dataset_names(data_dir, datasets)
    if request.dataset not in known:
        raise unknown_dataset(request.dataset, known)
    with _invalid_dataset("/body/dataset"):
        require_scorable(request.dataset, version.manifest.preprocessing, data_dir, datasets)
    count = count_images(request.dataset, data_dir, datasets)
    parts = 1 if parameters.images_per_part is None else math.ceil(count / parameters.images_per_part)
    if parts > MAX_PARTS:
        raise invalid(
            "/body/parameters/images_per_part",
            f"expected at most {MAX_PARTS} parts, got {parts} for {count} images; choose a larger number",
        )
    return f"{version.name}:{version.version}", version.calibration


def check_output(request: JobRequest, prefixes: Sequence[str], home: Path) -> None:
    """Raise 422 if a scoring job may not write to the output location that it names."""
    output = request.parameters.get("output")
    if request.type == "score" and output is not None:
        try:
            allowed_location(output, prefixes, home)
        except LocationRefused as error:
            raise problem_of(error, "/body/parameters/output") from error


def check_calibration(
    request: JobRequest, registry: Registry, data_dir: Path | None, datasets: DatasetStore
) -> tuple[str, None]:
    """Raise 422 for an impossible calibration; return the model as ``name:version`` and no calibration."""
    parameters = read_parameters(CalibrationParameters, request)
    with _invalid_model():
        model, version = registry.locate(parse_ref(request.model))
        manifest = registry.with_calibration(model, version, OWN).manifest
    if parameters.precision != "float32" and features_of(manifest.architecture) is not None:
        raise invalid("/body/parameters/precision", "expected float32 for a model with features")
    try:
        summary = summarize(request.dataset, data_dir, datasets, as_seen(manifest.preprocessing))
        check_summary(request.dataset, summary, manifest)
    except DatasetNotFound as error:
        raise unknown_dataset(request.dataset, dataset_names(data_dir, datasets)) from error
    except DatasetUnfit as error:
        raise invalid("/body/dataset", f"it does not suit {model}:{version}: {_without_advice(error)}") from error
    return f"{model}:{version}", None


def check_evaluation(
    request: JobRequest, registry: Registry, data_dir: Path | None, datasets: DatasetStore
) -> tuple[str, int]:
    """Raise 422 for an invalid evaluation; return the model as ``name:version`` and the calibration's number."""
    parameters = read_parameters(EvaluationParameters, request)
    version = find_calibrated(registry, request.model, parameters.calibration)
    _check_alpha(parameters.alpha, version)
    preprocessing = version.manifest.preprocessing
    used = (version.manifest.training.dataset, version.calibration_summary.dataset)
    with _invalid_dataset("/body/dataset"):
        check_normals(request.dataset, used, preprocessing, parameters.adapt, data_dir, datasets)
    for index, other in enumerate(parameters.against):
        with _invalid_dataset(f"/body/parameters/against/{index}"):
            check_anomalous(other, request.dataset, preprocessing, parameters.adapt, data_dir, datasets)
    for other, masks in parameters.masks.items():
        with _invalid_dataset(f"/body/parameters/masks/{other}"):
            check_masks(datasets, masks)
    return f"{version.name}:{version.version}", version.calibration


def check_limit(
    request: JobRequest, registry: Registry, data_dir: Path | None, datasets: DatasetStore
) -> tuple[str, int]:
    """Raise 422 for an invalid measurement; return the model as ``name:version`` and the calibration's number."""
    parameters = read_parameters(LimitParameters, request)
    version = find_calibrated(registry, request.model, parameters.calibration)
    _check_alpha(parameters.alpha, version)
    manifest = version.manifest
    with _invalid_dataset("/body/dataset"):
        check_unused(request.dataset, manifest, version.calibration_summary)
        try:
            summary = summarize(request.dataset, data_dir, datasets, as_seen(manifest.preprocessing))
        except DatasetUnfit as error:
            raise DatasetUnfit(_without_advice(error)) from error
        check_shape(request.dataset, summary.image_shape, manifest.preprocessing)
    return f"{version.name}:{version.version}", version.calibration


def check_recommendation(request: JobRequest, data_dir: Path | None, datasets: DatasetStore) -> None:
    parameters = read_parameters(RecommendParameters, request)
    if request.model:
        raise invalid("/body/model", "a job of type recommend has no model")
    with _invalid_dataset("/body/dataset"):
        images = ImageOptions.model_validate(parameters.image_settings)
        check_train_images(request.dataset, summarize(request.dataset, data_dir, datasets, images).train)


def require_model(request: JobRequest) -> None:
    """Raise a 422 error if a job request names no model."""
    if not request.model:
        raise invalid("/body/model", f"expected a model, as a job of type {request.type} works with one")


CHECKS: dict[ModelJobType, Callable[[JobRequest, Registry, Path | None, DatasetStore], tuple[str, int | None]]] = {
    "score": check_scoring,
    "calibrate": check_calibration,
    "evaluate": check_evaluation,
    "limit": check_limit,
}
"""The check of each job type that works with a registered model; it returns the model and its calibration."""


def read_parameters(kind: type[Parameters], request: JobRequest) -> Parameters:
    """Validate parameters as ``kind``; raise 422 for them and for a field that only trainings have."""
    for name in TRAINING_ONLY:
        if name in request.model_fields_set:
            raise invalid(f"/body/{name}", f"a job of type {request.type} has no {name}")
    refuse_conversions(kind, request.parameters)
    try:
        return kind.model_validate(request.parameters)
    except ValidationError as error:
        problems = [field_problem(item, ("body", "parameters"), kind.model_fields) for item in error.errors()]
        raise invalid_fields(problems) from error


def unknown_dataset(name: str, known: Collection[str]) -> Problem:
    """Return a 422 ``Problem`` that lists the ``known`` datasets."""
    return invalid("/body/dataset", f"{name!r} does not exist; {choices(name, known)}")


def find_calibrated(registry: Registry, ref: str, calibration: int | None) -> ModelVersion:
    """Return a version whose manifest and calibration, by default the active one, were read; raise 422."""
    with _invalid_model():
        name, number = registry.locate(parse_ref(ref))
        calibrations = registry.calibrations(name, number)
        if calibration is not None and calibration not in calibrations.numbers():
            known = ", ".join(map(str, calibrations.numbers()))
            raise invalid("/body/parameters/calibration", f"{name}:{number} has calibrations {known}")
        used = calibrations.active() if calibration is None else calibration
        version = registry.with_calibration(name, number, used)
        _ = version.manifest, version.calibration_summary
    return version


def _without_advice(error: DatasetUnfit) -> str:
    """Return the reason without advice for the parameters of a training, which does not help with a trained model."""
    return error.detail.partition("; set ")[0]


def _check_alpha(alpha: float | None, version: ModelVersion) -> None:
    try:
        attainable_alpha(alpha, version.calibration_summary.smallest_p)
    except AlphaUnattainable as error:
        raise problem_of(error, "/body/parameters/alpha") from error


@contextmanager
def _invalid_model() -> Iterator[None]:
    try:
        yield
    except (ModelNotFound, ArtifactError) as error:
        raise invalid("/body/model", error.detail) from error


@contextmanager
def _invalid_dataset(pointer: str) -> Iterator[None]:
    try:
        yield
    except (DatasetNotFound, DatasetUnfit) as error:
        raise invalid(pointer, error.detail) from error


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
