"""Checks of an evaluation job before it is queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from app.house import House
from app.problems import FieldProblem, Problem, invalid, pointer_of
from app.schemas import JobRequest
from models.evaluation.checks import check_anomalous, check_normals
from models.evaluation.parameters import EvaluationParameters
from models.problems import AlphaUnattainable, ArtifactError, DatasetNotFound, DatasetUnfit, ModelNotFound
from models.registry import Registry

TRAINING_ONLY = ("preset", "promote", "device")


def check_evaluation(request: JobRequest, house: House) -> str:
    """The name:version that is evaluated; raises a 422 problem for a job that cannot succeed. Blocks on the disk."""
    for name in TRAINING_ONLY:
        if name in request.model_fields_set:
            raise invalid(f"/body/{name}", f"an evaluate job has no {name}")
    parameters = _parameters(request)
    try:
        version = Registry(house.settings.registry_dir).resolve(request.model)
        manifest = version.manifest
    except (ModelNotFound, ArtifactError) as error:
        raise invalid("/body/model", error.detail) from error
    smallest = manifest.calibration.smallest_p
    if parameters.alpha is not None and parameters.alpha < smallest:
        raise AlphaUnattainable(parameters.alpha, smallest)
    places = (house.settings.data_dir, house.datasets)
    with _at("/body/dataset"):
        check_normals(request.dataset, manifest, parameters.adapt, *places)
    for number, name in enumerate(parameters.against):
        with _at(f"/body/parameters/against/{number}"):
            check_anomalous(name, request.dataset, manifest, parameters.adapt, *places)
    return f"{version.name}:{version.version}"


def _parameters(request: JobRequest) -> EvaluationParameters:
    try:
        return EvaluationParameters.model_validate(request.parameters)
    except ValidationError as error:
        found = [
            FieldProblem(pointer=pointer_of(("body", "parameters", *item["loc"])), detail=item["msg"])
            for item in error.errors()
        ]
        raise Problem(422, "invalid-request", "The request is not valid", found[0].detail, errors=found) from error


@contextmanager
def _at(pointer: str) -> Iterator[None]:
    try:
        yield
    except (DatasetNotFound, DatasetUnfit) as error:
        raise invalid(pointer, error.detail) from error
