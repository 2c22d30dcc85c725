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
from models.registry import Registry, parse_ref

TRAINING_ONLY = ("preset", "promote", "device")


def check_evaluation(request: JobRequest, house: House) -> tuple[str, int]:
    """The name:version that is evaluated and its calibration; raises a 422 problem for a job that cannot succeed.

    Blocks on the disk.
    """
    for field in TRAINING_ONLY:
        if field in request.model_fields_set:
            raise invalid(f"/body/{field}", f"an evaluate job has no {field}")
    parameters = _parameters(request)
    try:
        registry = Registry(house.settings.registry_dir)
        name, number = registry.locate(parse_ref(request.model))
        calibrations = registry.calibrations(name, number)
        calibration = calibrations.active() if parameters.calibration is None else parameters.calibration
        if parameters.calibration is not None and calibration not in calibrations.numbers():
            there = ", ".join(map(str, calibrations.numbers()))
            raise invalid("/body/parameters/calibration", f"{name}:{number} has calibrations {there}")
        version = registry.with_calibration(name, number, calibration)
        manifest, summary = version.manifest, version.calibration_summary
    except (ModelNotFound, ArtifactError) as error:
        raise invalid("/body/model", error.detail) from error
    smallest = summary.smallest_p
    if parameters.alpha is not None and parameters.alpha < smallest:
        raise AlphaUnattainable(parameters.alpha, smallest)
    places = (house.settings.data_dir, house.datasets)
    with _at("/body/dataset"):
        used = (manifest.training.dataset, summary.dataset)
        check_normals(request.dataset, used, manifest.preprocessing, parameters.adapt, *places)
    for place, other in enumerate(parameters.against):
        with _at(f"/body/parameters/against/{place}"):
            check_anomalous(other, request.dataset, manifest.preprocessing, parameters.adapt, *places)
    return f"{name}:{number}", calibration


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
