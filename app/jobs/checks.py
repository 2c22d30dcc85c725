"""What the checks of all jobs on a model have in common, before such a job is queued."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from app.http.errors import FieldProblem, Problem, invalid, pointer_of
from app.http.schemas import JobRequest
from models.errors import ArtifactError, ModelNotFound
from models.registry.registry import ModelVersion, Registry, parse_ref

TRAINING_ONLY = ("preset", "promote", "device")

Parameters = TypeVar("Parameters", bound=BaseModel)


def read_parameters(kind: type[Parameters], request: JobRequest) -> Parameters:
    """The parameters of a job that trains nothing; raises a 422 problem for unknown or impossible ones."""
    for name in TRAINING_ONLY:
        if name in request.model_fields_set:
            raise invalid(f"/body/{name}", f"a job of type {request.type} has no {name}")
    try:
        return kind.model_validate(request.parameters)
    except ValidationError as error:
        found = [
            FieldProblem(pointer=pointer_of(("body", "parameters", *item["loc"])), detail=item["msg"])
            for item in error.errors()
        ]
        raise Problem(422, "invalid-request", "The request is not valid", found[0].detail, errors=found) from error


def find_calibrated(registry: Registry, ref: str, calibration: int | None) -> ModelVersion:
    """The version that `ref` means, with the calibration asked for or the active one; raises a 422 problem.

    Blocks on the disk. Manifest and calibration have been read and are whole.
    """
    try:
        name, number = registry.locate(parse_ref(ref))
        calibrations = registry.calibrations(name, number)
        if calibration is not None and calibration not in calibrations.numbers():
            there = ", ".join(map(str, calibrations.numbers()))
            raise invalid("/body/parameters/calibration", f"{name}:{number} has calibrations {there}")
        used = calibrations.active() if calibration is None else calibration
        version = registry.with_calibration(name, number, used)
        _ = version.manifest, version.calibration_summary
    except (ModelNotFound, ArtifactError) as error:
        raise invalid("/body/model", error.detail) from error
    return version
