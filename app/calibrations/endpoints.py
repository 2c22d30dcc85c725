"""Calibrations: making one of a user's own images, and going from one to another, without training."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.access.permissions import CallerScope, MayAdminister, MayRead, MayTrain
from app.calibrations import views
from app.calibrations.schemas import CalibrationChoice, CalibrationList, CalibrationRequest, CalibrationView
from app.http.dependencies import JobServiceDep, RegistryDep
from app.http.errors import responses
from app.http.json_route import JsonRoute
from app.jobs.endpoints import IdempotencyKey, job_view
from app.jobs.schemas import JobRequest, JobView
from models.registry.registry import parse_ref

# Plain functions: the framework runs them in threads, where disk and job store may block.
router = APIRouter(prefix="/v1/models/{ref}/calibrations", tags=["calibrations"], route_class=JsonRoute)

Number = Annotated[int, Path(ge=0, lt=10**9, description="0 is the one that the model came with.", examples=[1])]


@router.post(
    "",
    operation_id="calibrate_model",
    summary="Calibrate a model on other images",
    status_code=202,
    dependencies=[MayTrain],
    responses={
        202: {
            "description": "The job is queued.",
            "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
        },
        **responses(401, 404, 413, 415, 422, 429, 500, 503),
    },
)
def calibrate_model(
    ref: str,
    request: CalibrationRequest,
    service: JobServiceDep,
    registry: RegistryDep,
    response: Response,
    scope: CallerScope,
    key: IdempotencyKey = None,
) -> JobView:
    """Queues a job that scores the images of a dataset and makes a calibration of the version from them.

    The dataset's training part, at most 5,000 images, says what is usual; its statistics and calibration parts, at most
    10,000, give the p-values. Of the data that the model was trained on only what training left out is used. At least
    20 images are needed. The model's weights stay as they are; scores have the precision of the calibration in use.

    With `activate`, which is the default, it becomes the calibration in use: that needs the role `admin`.
    """
    registry.locate(parse_ref(ref))
    parameters = {"activate": request.activate, "precision": request.precision}
    job = JobRequest(type="calibrate", model=ref, dataset=request.dataset, parameters=parameters)
    made = service.submit(job, scope, key)
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return job_view(made)


@router.get(
    "",
    operation_id="list_calibrations",
    summary="List the calibrations of a model",
    dependencies=[MayRead],
    responses=responses(401, 404, 422, 500),
)
def list_calibrations(ref: str, registry: RegistryDep) -> CalibrationList:
    """Lists all calibrations of a version, the one in use, and thresholds that keep a false-alarm rate."""
    return views.listing(registry, ref)


@router.put(
    "/active",
    operation_id="choose_calibration",
    summary="Use another calibration",
    dependencies=[MayAdminister],
    responses=responses(401, 404, 413, 415, 422, 429, 500),
)
def choose_calibration(ref: str, choice: CalibrationChoice, registry: RegistryDep) -> CalibrationList:
    """Makes a calibration the one in use, an earlier one too; scoring goes over to it in about a second."""
    return views.choose(registry, ref, choice.calibration)


@router.get(
    "/{number}",
    operation_id="get_calibration",
    summary="Show a calibration of a model",
    dependencies=[MayRead],
    responses=responses(401, 404, 422, 500),
)
def get_calibration(ref: str, number: Number, registry: RegistryDep) -> CalibrationView:
    """Shows one calibration of a version."""
    return views.one(registry, ref, number)
