"""Checks of a bulk scoring job before it is queued."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from app.http.errors import invalid
from app.http.schemas import JobRequest
from app.jobs.checks import find_calibrated, read_parameters
from models.datasets import DatasetStore, dataset_names, summarize
from models.errors import AlphaUnattainable
from models.registry.registry import Registry
from worker.settings import Settings

MAX_PARTS = 10_000


class ScoringParameters(BaseModel):
    """What a bulk scoring job may be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: float | None = Field(None, gt=0, le=1, description="False-alarm rate of the verdicts.")
    images_per_part: int = Field(2000, ge=1, le=100_000, description="Images that one worker takes at a time.")
    calibration: int | None = Field(None, ge=0, description="Number of the calibration. Default: the active one.")


def check_scoring(
    request: JobRequest, settings: Settings, registry: Registry, datasets: DatasetStore
) -> tuple[str, int]:
    """The name:version that scores and its calibration; raises a 422 problem for a job that cannot succeed.

    Blocks on the disk.
    """
    parameters = read_parameters(ScoringParameters, request)
    version = find_calibrated(registry, request.model, parameters.calibration)
    smallest = version.calibration_summary.smallest_p
    if parameters.alpha is not None and parameters.alpha < smallest:
        raise AlphaUnattainable(parameters.alpha, smallest)
    count = _count_images(request.dataset, settings.data_dir, datasets)
    parts = math.ceil(count / parameters.images_per_part)
    if parts > MAX_PARTS:
        raise invalid(
            "/body/parameters/images_per_part", f"{count} images would be {parts} parts, at most {MAX_PARTS} are made"
        )
    return f"{version.name}:{version.version}", version.calibration


def _count_images(name: str, data_dir: Path | None, store: DatasetStore) -> int:
    known = dataset_names(data_dir, store)
    if name not in known:
        raise invalid("/body/dataset", f"{name!r} does not exist; there are {', '.join(known)}")
    found = summarize(name, data_dir, store)
    return found.train + found.statistics + found.calibration + found.test
