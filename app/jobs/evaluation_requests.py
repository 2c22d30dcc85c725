"""Checks of an evaluation job before it is queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.http.errors import invalid
from app.http.schemas import JobRequest
from app.jobs.checks import find_calibrated, read_parameters
from models.datasets import DatasetStore
from models.errors import AlphaUnattainable, DatasetNotFound, DatasetUnfit
from models.evaluation.checks import check_anomalous, check_normals
from models.evaluation.parameters import EvaluationParameters
from models.registry.registry import Registry
from worker.settings import Settings


def check_evaluation(
    request: JobRequest, settings: Settings, registry: Registry, datasets: DatasetStore
) -> tuple[str, int]:
    """The name:version that is evaluated and its calibration; raises a 422 problem for a job that cannot succeed.

    Blocks on the disk.
    """
    parameters = read_parameters(EvaluationParameters, request)
    version = find_calibrated(registry, request.model, parameters.calibration)
    manifest, summary = version.manifest, version.calibration_summary
    smallest = summary.smallest_p
    if parameters.alpha is not None and parameters.alpha < smallest:
        raise AlphaUnattainable(parameters.alpha, smallest)
    places = (settings.data_dir, datasets)
    with _at("/body/dataset"):
        used = (manifest.training.dataset, summary.dataset)
        check_normals(request.dataset, used, manifest.preprocessing, parameters.adapt, *places)
    for place, other in enumerate(parameters.against):
        with _at(f"/body/parameters/against/{place}"):
            check_anomalous(other, request.dataset, manifest.preprocessing, parameters.adapt, *places)
    return f"{version.name}:{version.version}", version.calibration


@contextmanager
def _at(pointer: str) -> Iterator[None]:
    try:
        yield
    except (DatasetNotFound, DatasetUnfit) as error:
        raise invalid(pointer, error.detail) from error
