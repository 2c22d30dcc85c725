"""Endpoints that create, list, show, compare and select calibrations of a model."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, Field

from snf_app.calibrations import service
from snf_app.calibrations.service import compare
from snf_app.http.openapi import created
from snf_app.http.router import Router
from snf_app.jobs.endpoints import IdempotencyKey
from snf_app.jobs.service import job_view
from snf_app.state import JobServiceDep, RecentEvidenceDep, RegistryDep
from snf_client.schemas.calibrations import (
    CalibrationChoice,
    CalibrationComparison,
    CalibrationList,
    CalibrationRequest,
    CalibrationView,
)
from snf_client.schemas.jobs import JobRequest, JobView
from snf_models.naming import parse_ref

# Plain functions: the framework runs them in threads, where disk and job store may block.
router = Router("/v1/models/{ref}/calibrations", "calibrations")

Number = Annotated[int, Path(ge=0, lt=10**9, description="0 is the model's own calibration.", examples=[1])]


@router.post(
    "",
    "Calibrate a model on other images",
    role="train",
    errors=(404, 409, 507),
    **created(202, "The job is queued.", "job"),
)
def calibrate_model(
    ref: str,
    wanted: CalibrationRequest,
    service: JobServiceDep,
    registry: RegistryDep,
    request: Request,
    response: Response,
    key: IdempotencyKey = None,
) -> JobView:
    """Queue a job that calibrates a model's p-values on a dataset of normal images.

    The job fits the anomaly statistics and the p-values of the model, without training the model.

    The training part of the dataset, at most 5,000 images, fits the statistics. Its statistics and calibration parts,
    at most 10,000 images, give the p-values. Of the dataset that the model was trained on, only images that training
    left out are used. At least 20 images are needed. The weights of the model do not change; scores have the precision
    of the active calibration.

    It becomes the active calibration unless one of the rates 0.001, 0.005, 0.01, 0.02, 0.05 and 0.1 could no longer be
    attained; `activate` decides otherwise. All but `"activate": false` needs the role `admin`. The result of the job
    and the calibration say whether it became active, and why not.
    """
    registry.locate(parse_ref(ref))
    parameters = wanted.model_dump(include={"activate", "precision"}, exclude_none=True)
    job = JobRequest(type="calibrate", model=ref, dataset=wanted.dataset, parameters=parameters)
    queued = service.submit(job, request.scope, key)
    response.headers["Location"] = f"/v1/jobs/{queued.id}"
    return job_view(queued, service.workers.served())


@router.get("", "List the calibrations of a model", errors=(404, 409))
def list_calibrations(ref: str, registry: RegistryDep) -> CalibrationList:
    """List the p-value calibrations of a model version, and tell which of them is in use.

    Each has p-value thresholds that keep common false-alarm rates.
    """
    return service.listing(registry, ref)


@router.get("/active", "Show the calibration in use", errors=(404, 409))
def get_active_calibration(ref: str, registry: RegistryDep) -> CalibrationView:
    """Show the calibration that a model version uses for its p-values.

    A damaged calibration has a `problem`.
    """
    name, version = registry.locate(parse_ref(ref))
    return service.view_of(registry, name, version, registry.calibrations(name, version).active())


@router.put("/active", "Use another calibration", role="admin", errors=(404, 409, 507))
def choose_calibration(
    ref: str, choice: CalibrationChoice, registry: RegistryDep, recent: RecentEvidenceDep
) -> CalibrationList:
    """Select which calibration of a model gives the p-values of scored images from now on.

    It may be new or earlier. Scoring uses it within about two seconds.

    With `dry_run` nothing changes: the answer has a `comparison` with the calibration in use.
    """
    if choice.dry_run:
        comparison = compare(registry, ref, choice.calibration, recent)
        return service.listing(registry, ref).model_copy(update={"comparison": comparison})
    return service.choose(registry, ref, choice.calibration)


@router.get("/{number}", "Show a calibration of a model", errors=(404, 409))
def get_calibration(ref: str, number: Number, registry: RegistryDep) -> CalibrationView:
    """Show a p-value calibration of a model version, given its number.

    The answer has its dataset, numbers of images, precision and p-value thresholds.
    """
    return service.show(registry, ref, number)


class ComparisonQuery(BaseModel):
    """Query parameter of the calibration comparison: the number of the calibration to compare with."""

    against: int | None = Field(
        None, ge=0, lt=10**9, description="The calibration to compare with. Default: the one in use."
    )


@router.get("/{number}/comparison", "Compare a calibration with the one in use", errors=(404, 409))
def compare_calibration(
    ref: str,
    number: Number,
    registry: RegistryDep,
    recent: RecentEvidenceDep,
    query: Annotated[ComparisonQuery, Query()],
) -> CalibrationComparison:
    """Compare a p-value calibration of a model version with another one, by default the one in use.

    The answer has the smallest alpha, the threshold, and the verdicts on the newest images.

    The verdicts are those on at most 200 images that this process of the service judged by the model version since it
    started, each at the `alpha` of its request. They are exactly those that scoring would give. Images are not kept,
    only their statistics; those of bulk jobs and of requests with `detail=full` are not.
    """
    return compare(registry, ref, number, recent, query.against)
