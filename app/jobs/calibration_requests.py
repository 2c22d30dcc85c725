"""Checks of a job that calibrates a model again before it is queued."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from app.http.errors import invalid
from app.http.schemas import JobRequest
from app.jobs.checks import read_parameters
from models.anomaly.fitting.reference_images import as_seen, check_summary
from models.artifacts.manifest import Precision
from models.datasets import DatasetStore, dataset_names, summarize
from models.errors import ArtifactError, DatasetNotFound, DatasetUnfit, ModelNotFound
from models.registry.calibrations import OWN
from models.registry.registry import Registry, parse_ref
from worker.settings import Settings


class CalibrationParameters(BaseModel):
    """What a job that calibrates may be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    activate: bool = Field(True, description="Whether scoring uses the new calibration from then on.")
    precision: Precision = Field("float32", description="Arithmetic of the scores that it is for.")


def check_calibration(request: JobRequest, settings: Settings, registry: Registry, datasets: DatasetStore) -> str:
    """The name:version that is calibrated; raises a 422 problem for a job that cannot succeed. Blocks on the disk."""
    read_parameters(CalibrationParameters, request)
    try:
        model, version = registry.locate(parse_ref(request.model))
        manifest = registry.with_calibration(model, version, OWN).manifest
    except (ModelNotFound, ArtifactError) as error:
        raise invalid("/body/model", error.detail) from error
    try:
        summary = summarize(request.dataset, settings.data_dir, datasets, as_seen(manifest.preprocessing))
        check_summary(request.dataset, summary, manifest)
    except DatasetNotFound as error:
        known = ", ".join(dataset_names(settings.data_dir, datasets))
        raise invalid("/body/dataset", f"{request.dataset!r} does not exist; there are {known}") from error
    except DatasetUnfit as error:
        # What a training is advised to choose instead, a model that is trained cannot.
        reason = error.detail.partition("; set ")[0]
        raise invalid("/body/dataset", f"it does not suit {model}:{version}: {reason}") from error
    return f"{model}:{version}"
