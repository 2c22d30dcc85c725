"""Calls for jobs and workers: submission, control, lists and events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from snf_app.access.permissions import caller_of
from snf_app.http.errors import draining, pattern
from snf_app.http.openapi import created
from snf_app.http.router import Router, in_job_store_threads
from snf_app.jobs.events import EVENT_ID, Cursor, EventStream
from snf_app.jobs.service import NO_WORKER, job_view
from snf_app.state import DrainingDep, EventStreamsDep, JobServiceDep, JobStoreDep, SettingsDep, WorkerRegistryDep
from snf_client.schemas.base import JobType
from snf_client.schemas.jobs import EstimatedJob, JobDatasets, JobDraft, JobList, JobRequest, JobView
from snf_client.schemas.service import WorkerList, WorkerView
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import Job, Status
from snf_worker.settings import Settings

JOB_ID = pattern(r"^[0-9a-z]{26}$", "the id of a job, 26 of 0-9 a-z")

# Plain functions: the router runs them in threads, where the job store may block.
router = Router("/v1/jobs", "jobs", uses_job_store=True)
workers_router = Router("/v1/workers", "jobs", uses_job_store=True)

JobId = Annotated[str, PathParameter(description="The job's id.", examples=["06f8m2q1x3z4c5v6b7n8m9k0j1"])]
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


@router.post("", "Submit a job", role="train", errors=(409, 507), **created(202, "The job is queued.", "job"))
def submit_job(
    job: JobRequest, service: JobServiceDep, request: Request, response: Response, key: IdempotencyKey = None
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
    queued = service.submit(job, request.scope, key)
    response.headers["Location"] = f"/v1/jobs/{queued.id}"
    return job_view(queued, service.workers.served())


@router.post("/estimate", "Estimate a job", role="train", errors=(409,))
def estimate_job(job: JobRequest, service: JobServiceDep, jobs: JobStoreDep) -> EstimatedJob:
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


@router.post("/datasets", role="train", include_in_schema=False)  # the earlier path
@router.post("/check-datasets", "Check which datasets a job can take", role="train", errors=(409,))
def check_datasets(draft: JobDraft, service: JobServiceDep) -> JobDatasets:
    """List all datasets; each one that the job described in the request cannot use comes with the reason.

    No job is queued. The former path `/v1/jobs/datasets` still answers; it is deprecated.

    The checks are those of a submission. `suggested` is the dataset that is clearly meant, if there is one: for an
    evaluation or a detection limit, that of the calibration in use or of the training, if it has images that neither
    used. `note` is what to know before a dataset is chosen: which of its images are used, or that they may not suit.
    """
    return service.dataset_choices(draft)


@router.get("", "List jobs, newest first")
def list_jobs(
    jobs: JobStoreDep, workers: WorkerRegistryDep, settings: SettingsDep, query: Annotated[JobQuery, Query()]
) -> JobList:
    """List jobs page by page, the newest first.

    `next` in the answer is the value of `after` for the next page, or null on the last page.
    """
    page = jobs.list(query.after, query.limit, query.status, query.type)
    served = workers.served()
    return JobList(jobs=[job_view(job, served, home=settings.home) for job in page.jobs], next=page.next)


@router.get("/{job_id}", "Show a job", errors=(404,))
def get_job(job_id: JobId, jobs: JobStoreDep, workers: WorkerRegistryDep, settings: SettingsDep) -> JobView:
    """Show a job with its status and progress.

    The answer also has its place in the queue, its latest metrics, and its error or result.
    """
    job = jobs.get(job_id)
    return job_view(job, workers.served(), jobs.position(job), settings.home)


@router.delete("/{job_id}", "Delete a job that has ended", role="admin", errors=(404, 409, 507))
def delete_job(job_id: JobId, service: JobServiceDep) -> None:
    """Delete a job that has ended, with its files.

    The result, curve and log of the job are deleted too. A model that the job registered stays.

    409 for a job that has not ended, and while an unfinished retry may need its checkpoints. Downloads that have begun
    are completed. Its `Idempotency-Key` is free again.
    """
    service.delete(job_id)


@router.post("/{job_id}/cancel", "Cancel a job", role="train", errors=(404, 409), status_code=202)
def cancel_job(job_id: JobId, jobs: JobStoreDep, workers: WorkerRegistryDep) -> JobView:
    """Cancel a waiting job at once, or ask a running job to stop.

    409 for a job that has ended.
    """
    return job_view(jobs.request_cancel(job_id), workers.served())


@router.post("/{job_id}/pause", "Pause a job", role="train", errors=(404, 409), status_code=202)
def pause_job(job_id: JobId, jobs: JobStoreDep, workers: WorkerRegistryDep) -> JobView:
    """Pause a queued job at once, or a running job after it has written a checkpoint.

    A running job then frees its device for the next job.
    """
    return job_view(jobs.request_pause(job_id), workers.served())


@router.post("/{job_id}/resume", "Resume a paused job", role="train", errors=(404, 409), status_code=202)
def resume_job(job_id: JobId, service: JobServiceDep) -> JobView:
    """Resume a paused job by queueing it ahead of the jobs that have not run yet.

    The job continues from its newest checkpoint, if there is one. 409 if it is not paused.
    """
    return job_view(service.resume(job_id), service.workers.served())


@router.post(
    "/{job_id}/retry",
    "Retry a failed or cancelled job",
    role="train",
    errors=(404, 409, 507),
    **created(202, "A new job is queued, with `retry_of` this job. A second call returns the same job.", "new job"),
)
def retry_job(job_id: JobId, service: JobServiceDep, request: Request, response: Response) -> JobView:
    """Retry a failed or cancelled job as a new job.

    The new job continues from the newest checkpoint, if there is one. 409 if the job neither failed nor was cancelled.

    It needs the role `admin` where the submission needed it.
    """
    queued = service.retry(job_id, request.scope)
    response.headers["Location"] = f"/v1/jobs/{queued.id}"
    return job_view(queued, service.workers.served())


@workers_router.get("", "List the workers")
def list_workers(workers: WorkerRegistryDep) -> WorkerList:
    """List the running worker processes, each with its device, queues, state and current job."""
    return WorkerList(workers=[WorkerView.model_validate(worker) for worker in workers.workers()])


def folder_of(job_id: str, settings: Settings) -> Path:
    """Return a job's folder, which may not exist yet; raise ``JobNotFound``, so that no other text gets into a path."""
    if re.fullmatch(JOB_ID, job_id) is None:
        raise JobNotFound(f"no job has the id {job_id}")
    return settings.jobs_dir / job_id


def existing_job(job_id: JobId, jobs: JobStoreDep) -> Job:
    return jobs.get(job_id)


def followed_job(job_id: JobId, jobs: JobStoreDep, settings: SettingsDep) -> str:
    """Return the id of a job whose events can be read, even while the job store is down if there is a journal."""
    folder = folder_of(job_id, settings)
    try:
        jobs.get(job_id)
    except BrokerDown:
        # Browsers do not reconnect after a 503, and the journal does not need the job store.
        if not folder.is_dir():
            raise
    return job_id


ExistingJob = Annotated[Job, Depends(in_job_store_threads(existing_job))]
FollowedJob = Annotated[str, Depends(in_job_store_threads(followed_job))]


EXAMPLE = """retry: 2000

event: state
data: {"status": "running", "attempt": 1, "time": "2026-07-01T12:00:02.125+00:00", "worker": "host:17"}
id: 1234.1782907202125-0

event: metrics
data: {"event": "metrics", "step": 40, "steps": 200, "bits_per_dim": 2.41, "time": "...", "attempt": 1}
id: 1502.1782907202125-0

event: end
data: {"status": "succeeded"}
id: 9876.1782907260500-0.end

"""
EVENT = {
    "type": "object",
    "required": ["event", "data", "id"],
    "properties": {
        "event": {"type": "string", "description": "Kind of the event.", "examples": ["state"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "object"},
            "description": "The event itself.",
        },
        "id": {"type": "string", "description": "Value of `Last-Event-ID` after which the rest follows."},
    },
}
STREAM = {
    "description": "The events. Each has an id, after which a client can continue.",
    "content": {"text/event-stream": {"itemSchema": EVENT, "example": EXAMPLE}},
}
AFTER = pattern(rf"^({EVENT_ID})?$", "the id of an event, such as 1234.1764012345678-0")
OVER = {"description": "The job has ended and all its events were sent: do not reconnect."}


async def stream_slot(request: Request, streams: EventStreamsDep) -> AsyncIterator[None]:
    """Count the stream of this request until it ends; raise 429 if the caller or all callers have too many."""
    with streams.slot(caller_of(request.scope).name):
        yield


def cursor(
    header: Annotated[
        str | None,
        Header(alias="Last-Event-ID", pattern=AFTER, description="Id of the last event received; the rest follows."),
    ] = None,
    query: Annotated[
        str | None,
        Query(alias="last_event_id", pattern=AFTER, description="The same, for clients that cannot set headers."),
    ] = None,
) -> Cursor:
    """Return the position after the event id that the client sent, or the start."""
    # Browsers repeat the query of their first request, so their header is newer.
    given = header or query
    return Cursor.parse(given) if given else Cursor()


@router.get(
    "/{job_id}/events", "Follow a job", errors=(404,), response_class=Response, responses={200: STREAM, 204: OVER}
)
async def follow_job(
    job_id: FollowedJob,
    after: Annotated[Cursor, Depends(cursor)],
    streams: EventStreamsDep,
    settings: SettingsDep,
    stopping: DrainingDep,
    _slot: Annotated[None, Depends(stream_slot)],
    brief: Annotated[
        bool, Query(description="Leave out past `metrics` events, which `/metrics` has in fewer points.")
    ] = False,
) -> Response:
    """Stream the events of a job as server-sent events until the job ends.

    Events are changes of the job's status and reports of its worker.

    Reports are `started`, `metrics`, `validation`, `samples`, `checkpoint`, `scoring`, `evaluation`, `log`, `error`,
    `published`, `scored`, `calibrated`, `evaluated`, `limited` and `recommended`. The stream begins with the first
    event, or after the given id, and continues until `end`. A client that reconnects with its last id misses no event
    and gets none twice.
    """
    if after.ended:
        return Response(status_code=204)
    if stopping.is_set():
        raise draining()
    return EventStream(streams.follow(job_id, folder_of(job_id, settings), after, brief=brief))
