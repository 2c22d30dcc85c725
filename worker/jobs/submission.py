"""Submitting jobs: the record first, then its id to Celery."""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import redis
from celery import Celery  # type: ignore[import-untyped]
from kombu.exceptions import OperationalError

from worker.broker.celery_app import FIRST, IN_ORDER, TASK
from worker.errors import BrokerDown, JobConflict
from worker.jobs.record import Job, Status, new_job_id
from worker.jobs.store import JobStore
from worker.jobs.worker_registry import WorkerRegistry
from worker.queues import DeviceKind, Queue

log = logging.getLogger(__name__)


def training_queue(device: DeviceKind, registry: WorkerRegistry) -> Queue:
    """The queue of a training job: `auto` means a GPU where a living worker has one. Raises `BrokerDown`."""
    if device == "auto":
        served = {queue for worker in registry.workers() for queue in worker.queues}
        return Queue.TRAIN_GPU if Queue.TRAIN_GPU in served else Queue.TRAIN_CPU
    return Queue.TRAIN_GPU if device == "cuda" else Queue.TRAIN_CPU


def submit_training(
    store: JobStore,
    celery: Celery,
    *,
    model: str,
    dataset: str,
    preset: str,
    parameters: Mapping[str, Any] | None = None,
    promote: bool = False,
    device: DeviceKind = "auto",
    queue: Queue = Queue.TRAIN_CPU,
    estimate: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    fingerprint: str | None = None,
) -> Job:
    """Queues a training job and answers its record; the caller has validated the arguments.

    A repeated `idempotency_key` answers the job made first, where the `fingerprint` of the request as it was sent is
    the same; without one that of these arguments counts. Raises `BrokerDown` where nothing was recorded and
    `IdempotencyConflict` where the key belongs to a different request. Blocks for a few seconds at most; not
    for an event loop.
    """
    request: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "preset": preset,
        "parameters": dict(parameters or {}),
        "promote": promote,
        "device": device,
    }
    keyed = (idempotency_key, fingerprint)
    return _record_and_send(store, celery, request, *keyed, queue=queue, estimate=estimate)


def submit_on_model(
    store: JobStore,
    celery: Celery,
    kind: Literal["score", "calibrate", "evaluate"],
    *,
    model: str,
    dataset: str,
    parameters: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    fingerprint: str | None = None,
) -> Job:
    """Queues work with `model`, a name:version, on a dataset; as `submit_training`.

    It scores every image of the dataset, calibrates the model on it, or evaluates the model with it as normal images.
    """
    request: dict[str, Any] = {
        "type": kind,
        "model": model,
        "dataset": dataset,
        "parameters": dict(parameters or {}),
    }
    return _record_and_send(store, celery, request, idempotency_key, fingerprint, queue=Queue.SCORE)


def retry(store: JobStore, celery: Celery, job_id: str) -> Job:
    """Queues a new job that tries a failed or cancelled one again, from its newest checkpoint where it has one.

    A state that is over never changes, so this is another job, `retry_of` the first; asking twice answers the same.
    Raises `JobNotFound`, `JobConflict`, `BrokerDown`.
    """
    job = store.get(job_id)
    if job.status not in (Status.FAILED, Status.CANCELLED):
        raise JobConflict(f"job {job_id} is {job.status}; only one that failed or was cancelled can be tried again")
    fields = {"type", "model", "dataset", "preset", "parameters", "promote", "device"}
    # No caller's key starts with a blank: HTTP strips it.
    key = f" retry {job_id}"
    changes = {"queue": job.queue, "estimate": job.estimate, "retry_of": job_id}
    return _record_and_send(store, celery, job.model_dump(mode="json", include=fields), key, None, **changes)


def resume(store: JobStore, celery: Celery, job_id: str) -> Job:
    """Queues a paused job again, first in line; raises `JobNotFound`, `JobConflict`, `BrokerDown`."""
    job, needs_message = store.request_resume(job_id)
    if needs_message:
        _send(celery, job, first=True)
    return job


def dispatch(celery: Celery, job: Job, first: bool = False) -> None:
    """Sends a job's id to its queue, in front of all others where `first`; raises `BrokerDown`."""
    try:
        celery.send_task(
            TASK,
            args=[job.id],
            queue=job.queue.value,
            priority=FIRST if first else IN_ORDER,
            ignore_result=True,
        )
    except (OperationalError, redis.RedisError, OSError) as error:
        raise BrokerDown(f"the broker does not take messages: {error}") from error


def send_again(store: JobStore, celery: Celery, job_id: str) -> bool:
    """Send the id of a job that is still queued anew, first in line; return whether it was. Raises `BrokerDown`."""
    if not store.lines.note_dispatch(job_id):
        return False
    dispatch(celery, store.get(job_id), first=True)
    return True


def fingerprint_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of a request as JSON, whatever the order of its members."""
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
        # The record is durable: the reconciler sends the id again, so the job is accepted all the same.
        log.warning("job %s is recorded but not sent yet: %s", job.id, problem.detail)
