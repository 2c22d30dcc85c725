"""Submission of jobs: a job's record is stored first, then its id is sent to workers by Celery."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]
from kombu.exceptions import OperationalError

from snf_worker.broker.celery_app import FIRST, IN_ORDER, TASK
from snf_worker.errors import BrokerDown, JobConflict
from snf_worker.jobs.record import DeviceKind, Job, ModelJobType, Queue, Status, new_job_id
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.worker_registry import WorkerInfo

log = logging.getLogger(__name__)

ROOM_BYTES = 4 * 2**20
"""Bytes beside the reserve of the disk without which no job is accepted or started: it would soon stop again."""


def training_queue(device: DeviceKind, running: Iterable[WorkerInfo]) -> Queue:
    """Return the queue of trainings on a device; ``auto`` is the GPU queue if a running worker serves it."""
    if device == "auto":
        return Queue.TRAIN_GPU if any(Queue.TRAIN_GPU in worker.queues for worker in running) else Queue.TRAIN_CPU
    return Queue.TRAIN_GPU if device == "cuda" else Queue.TRAIN_CPU


def submit_training(
    store: JobStore,
    celery: Celery,
    *,
    model: str,
    dataset: str,
    preset: str,
    architecture: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    promote: bool = False,
    device: DeviceKind = "auto",
    queue: Queue = Queue.TRAIN_CPU,
    estimate: Mapping[str, Any] | None = None,
    caller: str = "",
    idempotency_key: str | None = None,
    fingerprint: str | None = None,
) -> Job:
    """Store and queue a training, in a few seconds at most; unfinished jobs of ``caller`` are limited."""
    request: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "preset": preset,
        "parameters": dict(parameters or {}),
        "promote": promote,
        "device": device,
    }
    if architecture is not None:
        request["architecture"] = dict(architecture)
    keyed = (idempotency_key, fingerprint)
    return _record_and_send(store, celery, request, *keyed, queue=queue, estimate=estimate, caller=caller)


def submit_on_model(
    store: JobStore,
    celery: Celery,
    kind: ModelJobType,
    *,
    model: str,
    dataset: str,
    parameters: Mapping[str, Any] | None = None,
    caller: str = "",
    idempotency_key: str | None = None,
    fingerprint: str | None = None,
) -> Job:
    """Store and queue a job that uses a trained model, named ``name:version``."""
    request: dict[str, Any] = {
        "type": kind,
        "model": model,
        "dataset": dataset,
        "parameters": dict(parameters or {}),
    }
    return _record_and_send(store, celery, request, idempotency_key, fingerprint, queue=Queue.SCORE, caller=caller)


def submit_recommendation(
    store: JobStore,
    celery: Celery,
    *,
    dataset: str,
    parameters: Mapping[str, Any] | None = None,
    caller: str = "",
    idempotency_key: str | None = None,
    fingerprint: str | None = None,
) -> Job:
    """Store and queue a comparison of model families, which trains and so waits among the trainings."""
    request: dict[str, Any] = {"type": "recommend", "dataset": dataset, "parameters": dict(parameters or {})}
    return _record_and_send(store, celery, request, idempotency_key, fingerprint, queue=Queue.TRAIN_CPU, caller=caller)


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
    fields = {"type", "model", "dataset", "preset", "architecture", "parameters", "promote", "device"}
    # Keys of callers never start with a blank, because HTTP strips it.
    key = f" retry {job_id}"
    request = job.model_dump(mode="json", include=fields)
    fingerprint = fingerprint_of(request)
    known = store.find_by_idempotency_key(key, fingerprint)
    if known is not None:
        return known
    before_new()
    changes = {"queue": job.queue, "estimate": job.estimate, "retry_of": job_id, "caller": caller}
    return _record_and_send(store, celery, request, key, fingerprint, **changes)


def resume(store: JobStore, celery: Celery, job_id: str) -> Job:
    """Queue a paused job again, ahead of the jobs that have not run yet, and return its record."""
    job, needs_message = store.request_resume(job_id)
    if needs_message:
        _send(celery, job, first=True)
    return job


def dispatch(celery: Celery, job: Job, first: bool = False) -> None:
    """Send the id of a job to its queue, ahead of all others if ``first``; raise ``BrokerDown``."""
    try:
        celery.send_task(
            TASK,
            args=[job.id],
            queue=job.queue.value,
            priority=FIRST if first else IN_ORDER,
            ignore_result=True,
        )
    except (OperationalError, redis.RedisError, OSError) as error:
        raise BrokerDown(f"the broker takes no messages: {error}") from error


def send_again(store: JobStore, celery: Celery, job_id: str) -> bool:
    """Send a new message for a job whose message was lost; return False if the job is not queued."""
    if not store.lines.note_dispatch(job_id):
        return False
    dispatch(celery, store.get(job_id), first=True)
    return True


def fingerprint_of(request: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of a job request, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _record_and_send(
    store: JobStore, celery: Celery, request: dict[str, Any], key: str | None, fingerprint: str | None, **more: Any
) -> Job:
    fingerprint = fingerprint or fingerprint_of(request)
    record = Job(id=new_job_id(), created_at=datetime.now(UTC), **request, **more)
    job, new = store.create(record, key, fingerprint)
    if new:
        _send(celery, job, first=False)
    return job


def _send(celery: Celery, job: Job, first: bool) -> None:
    try:
        dispatch(celery, job, first)
    except BrokerDown as problem:
        # The job is accepted all the same: its record is durable, and the reconciler sends the id again.
        log.warning("job %s is stored but not yet sent: %s", job.id, problem.detail)
