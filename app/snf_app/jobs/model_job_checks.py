"""Checks on the disk before jobs other than trainings are queued; a 422 error names the wrong part of the request."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from snf_app.http.errors import Problem, field_problem, invalid, invalid_fields, problem_of
from snf_app.jobs.parameters import TRAINING_ONLY, refuse_conversions
from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.jobs import CalibrationParameters, JobRequest, ScoringParameters
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendParameters
from snf_client.schemas.training import ImageOptions
from snf_models.anomaly.reference_images import as_seen, check_shape, check_summary
from snf_models.bulk.plan import MAX_PARTS, require_scorable
from snf_models.datasets import DatasetStore, count_images, dataset_names, summarize
from snf_models.errors import (
    AlphaUnattainable,
    ArtifactError,
    DatasetNotFound,
    DatasetUnfit,
    LocationRefused,
    ModelNotFound,
)
from snf_models.evaluation.checks import check_anomalous, check_normals
from snf_models.evaluation.masks import check_masks
from snf_models.flows.architecture import features_of
from snf_models.limits.good_images import check_unused
from snf_models.locations.location import allowed_location
from snf_models.naming import parse_ref
from snf_models.recommendation.record import check_train_images
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import ModelVersion, Registry
from snf_models.texts import choices
from snf_runtime.anomaly.calibration import attainable_alpha
from snf_worker.jobs.record import ModelJobType

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
