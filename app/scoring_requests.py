"""Checks of a bulk scoring job before it is queued."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.house import House
from app.problems import FieldProblem, Problem, invalid, pointer_of
from app.schemas import JobRequest
from models.datasets import DatasetStore, dataset_names, summarize
from models.problems import AlphaUnattainable, ArtifactError, ModelNotFound
from models.registry import Registry, parse_ref

MAX_PARTS = 10_000
TRAINING_ONLY = ("preset", "promote", "device")


class ScoringParameters(BaseModel):
    """What a bulk scoring job may be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: float | None = Field(None, gt=0, le=1, description="False-alarm rate of the verdicts.")
    images_per_part: int = Field(2000, ge=1, le=100_000, description="Images that one worker takes at a time.")
    calibration: int | None = Field(None, ge=0, description="Number of the calibration. Default: the active one.")


def check_scoring(request: JobRequest, house: House) -> tuple[str, int]:
    """The name:version that scores and its calibration; raises a 422 problem for a job that cannot succeed.

    Blocks on the disk.
    """
    for name in TRAINING_ONLY:
        if name in request.model_fields_set:
            raise invalid(f"/body/{name}", f"a score job has no {name}")
    try:
        parameters = ScoringParameters.model_validate(request.parameters)
    except ValidationError as error:
        found = [
            FieldProblem(pointer=pointer_of(("body", "parameters", *item["loc"])), detail=item["msg"])
            for item in error.errors()
        ]
        raise Problem(422, "invalid-request", "The request is not valid", found[0].detail, errors=found) from error
    try:
        registry = Registry(house.settings.registry_dir)
        name, number = registry.locate(parse_ref(request.model))
        calibrations = registry.calibrations(name, number)
        calibration = calibrations.active() if parameters.calibration is None else parameters.calibration
        if parameters.calibration is not None and calibration not in calibrations.numbers():
            there = ", ".join(map(str, calibrations.numbers()))
            raise invalid("/body/parameters/calibration", f"{name}:{number} has calibrations {there}")
        version = registry.with_calibration(name, number, calibration)
        smallest = version.calibration_summary.smallest_p
    except (ModelNotFound, ArtifactError) as error:
        raise invalid("/body/model", error.detail) from error
    if parameters.alpha is not None and parameters.alpha < smallest:
        raise AlphaUnattainable(parameters.alpha, smallest)
    count = _count_images(request.dataset, house.settings.data_dir, house.datasets)
    parts = math.ceil(count / parameters.images_per_part)
    if parts > MAX_PARTS:
        raise invalid(
            "/body/parameters/images_per_part", f"{count} images would be {parts} parts, at most {MAX_PARTS} are made"
        )
    return f"{name}:{number}", calibration


def _count_images(name: str, data_dir: Path | None, store: DatasetStore) -> int:
    known = dataset_names(data_dir, store)
    if name not in known:
        raise invalid("/body/dataset", f"{name!r} does not exist; there are {', '.join(known)}")
    found = summarize(name, data_dir, store)
    return found.train + found.statistics + found.calibration + found.test
