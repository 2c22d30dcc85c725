"""Submission of jobs: a job's record is stored first, then workers are woken by a message of Celery."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery import Celery  # type: ignore[import-untyped]

from snf_worker.broker.celery_app import wake
from snf_worker.errors import BrokerDown, JobConflict
from snf_worker.jobs.record import DeviceKind, Job, Queue, Status, new_job
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.worker_registry import WorkerInfo

log = logging.getLogger(__name__)

ROOM_BYTES = 4 * 2**20
"""Bytes beside the reserve of the disk without which no job is accepted or started: it would soon stop again."""
REQUEST = {"type", "model", "dataset", "preset", "architecture", "parameters", "promote", "device"}
"""Fields of a record that a caller asks for."""


def training_queue(device: DeviceKind, running: Iterable[WorkerInfo]) -> Queue:
    """Return the queue of trainings on a device; ``auto`` is the GPU queue if a running worker serves it."""
    if device == "auto":
        return Queue.TRAIN_GPU if any(Queue.TRAIN_GPU in worker.queues for worker in running) else Queue.TRAIN_CPU
    return Queue.TRAIN_GPU if device == "cuda" else Queue.TRAIN_CPU


def submit(
    store: JobStore, celery: Celery, job: Job, idempotency_key: str | None = None, fingerprint: str | None = None
) -> Job:
    """Store and queue a new job, in a few seconds at most; unfinished jobs of its caller are limited."""
    fingerprint = fingerprint or fingerprint_of(job.model_dump(mode="json", include=REQUEST))
    job, new = store.create(job, idempotency_key, fingerprint)
    if new:
        _send(celery, job)
    return job


def retry(
    store: JobStore,
    celery: Celery,
    job_id: str,
    caller: str = "",
    before_new: Callable[[], object] = lambda: None,
) -> Job:
    """Queue a job that continues from the files of a failed or cancelled job; a repeated call returns the same job."""
    job = store.get(job_id)
    if job.status not in (Status.FAILED, Status.CANCELLED):
        raise JobConflict(f"job {job_id} is {job.status}; only a failed or cancelled job can be retried")
    # Keys of callers never start with a blank, because HTTP strips it.
    key = f" retry {job_id}"
    request = job.model_dump(mode="json", include=REQUEST)
    fingerprint = fingerprint_of(request)
    earlier = store.find_by_idempotency_key(key, fingerprint)
    if earlier is not None:
        return earlier
    before_new()
    again = new_job(**request, queue=job.queue, estimate=job.estimate, retry_of=job_id, caller=caller)
    return submit(store, celery, again, key, fingerprint)


def resume(store: JobStore, celery: Celery, job_id: str) -> Job:
    """Queue a paused job again, ahead of the jobs that have not run yet, and return its record."""
    job, needs_message = store.request_resume(job_id)
    if needs_message:
        _send(celery, job)
    return job


def fingerprint_of(request: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of a job request, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _send(celery: Celery, job: Job) -> None:
    try:
        wake(celery, job.queue)
    except BrokerDown as problem:
        # The job is accepted all the same: its record is durable, and the reconciler wakes a worker.
        log.warning("job %s is stored but no worker is woken yet: %s", job.id, problem.detail)
