"""Jobs: submitting, listing, showing and cancelling them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app import schemas
from app.access import MayTrain
from app.house import InHouse
from app.job_requests import check_training
from app.json_body import json_body, json_body_schema
from app.problems import responses
from worker.jobs import Job, JobType, Status
from worker.submit import submit_training

JOB_ID = r"^[0-9a-z]{26}$"

# Plain functions: the framework runs them in threads, where the job store may block.
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[MayTrain])

JobId = Annotated[str, Path(description="The job's id.", examples=["06f8m2q1x3z4c5v6b7n8m9k0j1"])]


class JobQuery(BaseModel):
    """The query of the list of jobs; unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = Field(None, description="Only jobs with this status.")
    type: JobType | None = Field(None, description="Only jobs of this type.")
    after: str | None = Field(None, pattern=JOB_ID, description="`next` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Most jobs in one page.")


@router.post(
    "",
    operation_id="submit_job",
    summary="Submit a job",
    status_code=202,
    responses={
        202: {
            "description": "The job is queued.",
            "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
        },
        **responses(401, 413, 415, 422, 429, 500, 503),
    },
    openapi_extra=json_body_schema(schemas.JobRequest),
)
def submit_job(
    job: Annotated[schemas.JobRequest, Depends(json_body(schemas.JobRequest))],
    house: InHouse,
    response: Response,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="Repeating a request with the same key answers the job that was made first.",
        ),
    ] = None,
) -> schemas.JobView:
    """Queues a training job. It is checked first: what cannot succeed is a 422 and is not queued.

    A succeeded job has registered a version of `model`, which is served without a restart.
    """
    check_training(job, house.settings.data_dir)
    made = submit_training(
        house.jobs,
        house.celery,
        model=job.model,
        dataset=job.dataset,
        preset=job.preset,
        parameters=job.parameters,
        promote=job.promote,
        idempotency_key=key,
    )
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return _view(made)


@router.get("", operation_id="list_jobs", summary="List jobs, newest first", responses=responses(401, 422, 500, 503))
def list_jobs(house: InHouse, query: Annotated[JobQuery, Query()]) -> schemas.JobList:
    """Answers one page; `next`, when it is not null, is `after` of the page that follows."""
    page = house.jobs.list(query.after, query.limit, query.status, query.type)
    return schemas.JobList(jobs=[_view(job) for job in page.jobs], next=page.next)


@router.get("/{job_id}", operation_id="get_job", summary="Show a job", responses=responses(401, 404, 422, 500, 503))
def get_job(job_id: JobId, house: InHouse) -> schemas.JobView:
    """Shows status, progress, latest metrics, error and result of a job."""
    return _view(house.jobs.get(job_id))


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def cancel_job(job_id: JobId, house: InHouse) -> schemas.JobView:
    """Cancels a queued job at once, asks a running one to stop; a job that is over stays as it is (409)."""
    return _view(house.jobs.request_cancel(job_id))


def _view(job: Job) -> schemas.JobView:
    path = f"/v1/jobs/{job.id}"
    links = {"self": path}
    if not job.finished:
        links["cancel"] = f"{path}/cancel"
    if job.result is not None and "ref" in job.result:
        links["model"] = f"/v1/models/{job.result['ref']}"
        links["score"] = f"/v1/models/{job.result['ref']}/score"
    return schemas.JobView(
        **job.model_dump(exclude={"fruitless", "checkpoint_step", "worker", "status"}),
        status=job.status.value,
        links=links,
    )
