from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query, Response
from pydantic import BaseModel, Field

from snf_app.access.permissions import CallerScope, MayAdminister, MayRead, MayTrain
from snf_app.http.errors import pattern, responses
from snf_app.http.openapi import located
from snf_app.http.router import JsonRoute, Router
from snf_app.jobs.dataset_choices import dataset_choices
from snf_app.jobs.views import NO_WORKER, job_view
from snf_app.state import (
    DatasetStoreDep,
    JobServiceDep,
    JobStoreDep,
    RegistryDep,
    SettingsDep,
    WorkerRegistryDep,
)
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import EstimatedJob, JobDatasets, JobDraft, JobList, JobRequest, JobView
from snf_client.schemas.service import WorkerList, WorkerView
from snf_worker.jobs.record import Status

JOB_ID = pattern(r"^[0-9a-z]{26}$", "the id of a job, 26 of 0-9 a-z")

# Plain functions: the router runs them in threads, where the job store may block.
router = Router(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute, uses_job_store=True)
workers_router = Router(prefix="/v1/workers", tags=["jobs"], dependencies=[MayRead], uses_job_store=True)

JobId = Annotated[str, Path(description="The job's id.", examples=["06f8m2q1x3z4c5v6b7n8m9k0j1"])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A repeated request of the same caller with the same key returns the job of the first request.",
    ),
]


class JobQuery(BaseModel):
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
        202: located("The job is queued.", "job"),
        **responses(401, 409, 413, 415, 422, 429, 500, 503, 507),
    },
)
def submit_job(
    job: JobRequest,
    service: JobServiceDep,
    response: Response,
    scope: CallerScope,
    key: IdempotencyKey = None,
) -> JobView:
    """Submit a background job, such as a training: check it and add it to a queue.

    422 for a job that cannot succeed.

    Types are training, bulk scoring, calibration, evaluation, the measurement of a detection limit, and recommendation.

    A training is refused, unless `force` is true, if the latest one of its kind needed more memory than every running
    worker has, or so much time that this one would take more than two weeks.
    A job that no running worker can take is queued, and `waits_for` says so.

    The answer to a training job contains the expected time and memory, null where no such training has run. A training
    registers a version of `model`, which is served without a restart. A scoring writes a Parquet file with a
    row per image, a calibration adds a calibration to the model, and an evaluation writes a report as JSON and HTML. A
    limit is stored beside the model, and a recommendation compares the families of models and registers none.

    A job that changes what is served needs the role `admin`: a training with `promote`, a calibration
    without `"activate": false`.
    """
    queued = service.submit(job, scope, key)
    response.headers["Location"] = f"/v1/jobs/{queued.id}"
    return job_view(queued, service.workers.served())


@router.post(
    "/estimate",
    operation_id="estimate_job",
    summary="Estimate a job",
    dependencies=[MayTrain],
    responses=responses(401, 409, 413, 415, 422, 429, 500, 503),
)
def estimate_job(
    job: JobRequest,
    service: JobServiceDep,
    jobs: JobStoreDep,
) -> EstimatedJob:
    """Check a job request and estimate its time and memory by earlier jobs, without queueing the job.

    The answer also names the queue. Only a training has an estimate.
    """
    plan = service.plan(job)
    return EstimatedJob(
        queue=plan.queue.value,
        waiting=jobs.waiting(plan.queue),
        workers=plan.workers,
        waits_for=None if plan.workers else NO_WORKER[plan.queue],
        estimate=plan.estimate,
    )


@router.post(
    "/datasets", include_in_schema=False, operation_id="check_datasets", dependencies=[MayTrain]
)  # the earlier path
@router.post(
    "/check-datasets",
    operation_id="check_datasets",
    summary="Check which datasets a job can take",
    dependencies=[MayTrain],
    responses=responses(401, 409, 413, 415, 422, 429, 500),
)
def check_datasets(
    draft: JobDraft, settings: SettingsDep, registry: RegistryDep, datasets: DatasetStoreDep
) -> JobDatasets:
    """List all datasets; each one that the job described in the request cannot use comes with the reason.

    No job is queued. The former path `/v1/jobs/datasets` still answers; it is deprecated.

    The checks are those of a submission. `suggested` is the dataset that is clearly meant, if there is one: for an
    evaluation or a detection limit, that of the calibration in use or of the training, if it has images that neither
    used. `note` is what to know before a dataset is chosen: which of its images are used, or that they may not suit.
    """
    return dataset_choices(draft, settings, registry, datasets)


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs, newest first",
    dependencies=[MayRead],
    responses=responses(401, 422, 500, 503),
)
def list_jobs(
    jobs: JobStoreDep, workers: WorkerRegistryDep, settings: SettingsDep, query: Annotated[JobQuery, Query()]
) -> JobList:
    """List jobs page by page, the newest first.

    `next` in the answer is the value of `after` for the next page, or null on the last page.
    """
    page = jobs.list(query.after, query.limit, query.status, query.type)
    served = workers.served()
    return JobList(jobs=[job_view(job, served, home=settings.home) for job in page.jobs], next=page.next)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Show a job",
    dependencies=[MayRead],
    responses=responses(401, 404, 422, 500, 503),
)
def get_job(job_id: JobId, jobs: JobStoreDep, workers: WorkerRegistryDep, settings: SettingsDep) -> JobView:
    """Show a job with its status and progress.

    The answer also has its place in the queue, its latest metrics, and its error or result.
    """
    job = jobs.get(job_id)
    return job_view(job, workers.served(), jobs.position(job), settings.home)


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a job that has ended",
    dependencies=[MayAdminister],
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500, 503, 507),
)
def delete_job(job_id: JobId, service: JobServiceDep) -> None:
    """Delete a job that has ended, with its files.

    The result, curve and log of the job are deleted too. A model that the job registered stays.

    409 for a job that has not ended, and while an unfinished retry may need its checkpoints. Downloads that have begun
    are completed. Its `Idempotency-Key` is free again.
    """
    service.delete(job_id)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    dependencies=[MayTrain],
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def cancel_job(job_id: JobId, jobs: JobStoreDep, workers: WorkerRegistryDep) -> JobView:
    """Cancel a waiting job at once, or ask a running job to stop.

    409 for a job that has ended.
    """
    return job_view(jobs.request_cancel(job_id), workers.served())


@router.post(
    "/{job_id}/pause",
    operation_id="pause_job",
    summary="Pause a job",
    dependencies=[MayTrain],
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def pause_job(job_id: JobId, jobs: JobStoreDep, workers: WorkerRegistryDep) -> JobView:
    """Pause a queued job at once, or a running job after it has written a checkpoint.

    A running job then frees its device for the next job.
    """
    return job_view(jobs.request_pause(job_id), workers.served())


@router.post(
    "/{job_id}/resume",
    operation_id="resume_job",
    summary="Resume a paused job",
    dependencies=[MayTrain],
    status_code=202,
    responses=responses(401, 404, 409, 422, 500, 503),
)
def resume_job(job_id: JobId, service: JobServiceDep) -> JobView:
    """Resume a paused job by queueing it ahead of the jobs that have not run yet.

    The job continues from its newest checkpoint, if there is one. 409 if it is not paused.
    """
    return job_view(service.resume(job_id), service.workers.served())


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    summary="Retry a failed or cancelled job",
    dependencies=[MayTrain],
    status_code=202,
    responses={
        202: located("A new job is queued, with `retry_of` this job. A second call returns the same job.", "new job"),
        **responses(401, 404, 409, 422, 500, 503, 507),
    },
)
def retry_job(job_id: JobId, service: JobServiceDep, response: Response, scope: CallerScope) -> JobView:
    """Retry a failed or cancelled job as a new job.

    The new job continues from the newest checkpoint, if there is one. 409 if the job neither failed nor was cancelled.

    It needs the role `admin` where the submission needed it.
    """
    queued = service.retry(job_id, scope)
    response.headers["Location"] = f"/v1/jobs/{queued.id}"
    return job_view(queued, service.workers.served())


@workers_router.get("", operation_id="list_workers", summary="List the workers", responses=responses(401, 500, 503))
def list_workers(workers: WorkerRegistryDep) -> WorkerList:
    """List the running worker processes, each with its device, queues, state and current job."""
    return WorkerList(workers=[WorkerView.model_validate(worker) for worker in workers.workers()])
