"""Jobs: submitting and estimating, listing and showing, cancelling, pausing, resuming and trying again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.access.permissions import CallerScope, MayRead, MayTrain
from app.http.dependencies import JobServiceDep, JobStoreDep, WorkerRegistryDep
from app.http.errors import responses
from app.http.json_route import JsonRoute
from app.jobs.schemas import EstimatedJob, JobList, JobRequest, JobView, WorkerList, WorkerView
from worker.jobs.record import Job, JobType, Status

JOB_ID = r"^[0-9a-z]{26}$"

# Plain functions: the framework runs them in threads, where the job store may block.
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)
workers_router = APIRouter(prefix="/v1/workers", tags=["jobs"], dependencies=[MayRead])

JobId = Annotated[str, Path(description="The job's id.", examples=["06f8m2q1x3z4c5v6b7n8m9k0j1"])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Repeating a request with the same key answers the job that was made first.",
    ),
]


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
    dependencies=[MayTrain],
    status_code=202,
    responses={
        202: {
            "description": "The job is queued.",
            "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
        },
        **responses(401, 413, 415, 422, 429, 500, 503),
    },
)
def submit_job(
    job: JobRequest,
    service: JobServiceDep,
    response: Response,
    scope: CallerScope,
    key: IdempotencyKey = None,
) -> JobView:
    """Queues a job. It is checked first: what cannot succeed is a 422 and is not queued.

    A training that is expected to need more memory than any running worker has for it is a 422 as well, unless `force`
    is true. Where no worker is running this is not known, and `fits` in its estimate is null.

    The answer to a training job says what time and memory it is expected to take; one that succeeded has registered a
    version of `model`, which is served without a restart. One that scores leaves a Parquet file with a row an image,
    one that calibrates another calibration of the model, one that evaluates a report as JSON and HTML.

    A job that goes live by itself needs the role `admin`: a training with `promote`, a calibration with `activate`.
    """
    made = service.submit(job, scope, key)
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return job_view(made)


@router.post(
    "/estimate",
    operation_id="estimate_job",
    summary="What would this job take?",
    dependencies=[MayTrain],
    responses=responses(401, 413, 415, 422, 429, 500, 503),
)
def estimate_job(
    job: JobRequest,
    service: JobServiceDep,
    jobs: JobStoreDep,
) -> EstimatedJob:
    """Checks a job as submitting does and answers its expected time and memory; queues nothing."""
    plan = service.plan(job)
    return EstimatedJob(
        queue=plan.queue.value,
        waiting=jobs.waiting(plan.queue),
        workers=plan.workers,
        estimate=plan.estimate,
    )


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs, newest first",
    dependencies=[MayRead],
    responses=responses(401, 422, 500, 503),
)
def list_jobs(jobs: JobStoreDep, query: Annotated[JobQuery, Query()]) -> JobList:
    """Answers one page; `next`, when it is not null, is `after` of the page that follows."""
    page = jobs.list(query.after, query.limit, query.status, query.type)
    return JobList(jobs=[job_view(job) for job in page.jobs], next=page.next)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Show a job",
    dependencies=[MayRead],
    responses=responses(401, 404, 422, 500, 503),
)
def get_job(job_id: JobId, jobs: JobStoreDep) -> JobView:
    """Shows status, progress, latest metrics, error and result of a job."""
    job = jobs.get(job_id)
    return job_view(job, jobs.place_in_line(job))


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    dependencies=[MayTrain],
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def cancel_job(job_id: JobId, jobs: JobStoreDep) -> JobView:
    """Cancels a queued job at once, asks a running one to stop; a job that is over stays as it is (409)."""
    return job_view(jobs.request_cancel(job_id))


@router.post(
    "/{job_id}/pause",
    operation_id="pause_job",
    summary="Pause a job",
    dependencies=[MayTrain],
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def pause_job(job_id: JobId, jobs: JobStoreDep) -> JobView:
    """Pauses a queued job at once; a running one writes a checkpoint first and gives its device to the next job."""
    return job_view(jobs.request_pause(job_id))


@router.post(
    "/{job_id}/resume",
    operation_id="resume_job",
    summary="Resume a paused job",
    dependencies=[MayTrain],
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def resume_job(job_id: JobId, service: JobServiceDep) -> JobView:
    """Queues a paused job first in line; it goes on from its checkpoint. 409 where it was not paused."""
    return job_view(service.resume(job_id))


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    summary="Try a failed or cancelled job again",
    dependencies=[MayTrain],
    status_code=202,
    responses={
        202: {
            "description": "Another job, `retry_of` this one, is queued; asking twice answers the same.",
            "headers": {"Location": {"description": "Path of the new job.", "schema": {"type": "string"}}},
        },
        **responses(401, 404, 409, 422, 500, 503),
    },
)
def retry_job(job_id: JobId, service: JobServiceDep, response: Response, scope: CallerScope) -> JobView:
    """Queues a new job with the same request, which goes on from the newest checkpoint of the one that ended.

    It needs the role `admin` where submitting the job did.
    """
    made = service.retry(job_id, scope)
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return job_view(made)


@workers_router.get("", operation_id="list_workers", summary="List the workers", responses=responses(401, 500, 503))
def list_workers(workers: WorkerRegistryDep) -> WorkerList:
    """Shows which workers are running, on which device, and which job each has in hand."""
    found = workers.workers()
    return WorkerList(workers=[WorkerView.model_validate(worker) for worker in found])


def job_view(job: Job, place_in_line: int | None = None) -> JobView:
    """Return a job as the API shows it, with links to the calls that its state allows."""
    path = f"/v1/jobs/{job.id}"
    links = {"self": path} | {name: f"{path}/{name}" for name in ("events", "metrics", "samples", "log")}
    if not job.finished:
        links["cancel"] = f"{path}/cancel"
        links["pause"] = f"{path}/pause"
    if job.status is Status.PAUSED:
        links["resume"] = f"{path}/resume"
    if job.status in (Status.FAILED, Status.CANCELLED):
        links["retry"] = f"{path}/retry"
    if job.result is not None:
        links["result"] = f"{path}/result"
    if job.result is not None and "ref" in job.result:
        links["model"] = f"/v1/models/{job.result['ref']}"
        links["score"] = f"/v1/models/{job.result['ref']}/score"
    if job.result is not None and "calibration" in job.result:
        links["calibration"] = f"{links['model']}/calibrations/{job.result['calibration']}"
    return JobView(
        **job.model_dump(exclude={"attempts_without_progress", "worker", "status", "queue"}),
        status=job.status.value,
        queue=job.queue.value,
        place_in_line=place_in_line,
        links=links,
    )
