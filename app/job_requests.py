"""Checks of a job before it is queued: what cannot succeed is refused, naming what is wrong."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from app.problems import FieldProblem, Problem, invalid, pointer_of
from app.schemas import JobRequest
from models.datasets import dataset_names, dataset_shape
from models.presets import PRESETS
from models.problems import DatasetNotFound, DatasetUnfit


def check_training(request: JobRequest, data_dir: Path | None) -> None:
    """Raises a 422 problem for a training job that cannot succeed; blocks on the disk."""
    if request.preset not in PRESETS:
        raise invalid("/body/preset", f"unknown preset {request.preset!r}; there are {', '.join(PRESETS)}")
    try:
        config = PRESETS[request.preset].config(request.parameters)
    except ValidationError as error:
        found = [
            FieldProblem(pointer=pointer_of(("body", "parameters", *item["loc"])), detail=item["msg"])
            for item in error.errors()
        ]
        detail = "; ".join(f"{item.pointer}: {item.detail}" for item in found[:3])
        raise Problem(422, "invalid-request", "The request is not valid", detail, errors=found) from error
    try:
        shape = dataset_shape(request.dataset, data_dir)
    except DatasetNotFound as error:
        known = ", ".join(dataset_names(data_dir))
        raise invalid("/body/dataset", f"{request.dataset!r} does not exist; there are {known}") from error
    try:
        PRESETS[request.preset].architecture(shape, config.pixel_transform)
    except DatasetUnfit as error:
        raise invalid("/body/dataset", error.detail) from error
