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

from worker.broker.celery_app import FIRST, IN_ORDER, TASK
from worker.errors import BrokerDown, JobConflict
from worker.jobs.record import Job, Status, new_job_id
from worker.jobs.store import JobStore
from worker.jobs.worker_registry import WorkerInfo
from worker.queues import DeviceKind, ModelJobType, Queue

log = logging.getLogger(__name__)

ROOM_BYTES = 4 * 2**20
"""Bytes beside the reserve of the disk without which no job is accepted or started: it would soon stop again."""


def training_queue(device: DeviceKind, running: Iterable[WorkerInfo]) -> Queue:
    """Return the queue for training jobs on a kind of device: ``cpu``, ``cuda`` or ``auto``.

    ``auto`` means the GPU queue if one of the running workers serves it, else the CPU queue.
    """
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
    """Store a new training job in Redis, and send its id to workers through a Celery queue.

    Returns the record of the job. The arguments must be valid already.

    The call blocks for a few seconds at most and must not be made from an event loop.

    Args:
        store: Job store.
        celery: Celery application that sends the message.
        model: Name of the model to train.
        dataset: Name of the training dataset.
        preset: Name of the preset, or of the architecture.
        architecture: Architecture in place of the preset.
        parameters: Parameters of the preset to change.
        promote: Whether the new version becomes the live one.
        device: Kind of device as requested.
        queue: Queue of the job.
        estimate: Expected time and memory.
        caller: Caller that submits it, whose unfinished jobs are limited; empty for none.
        idempotency_key: Key of the request; a repeated key returns the job stored first.
        fingerprint: Digest of the request, by default computed from these arguments.

    Raises:
        BrokerDown: Nothing was stored.
        IdempotencyConflict: The key was used for another request.
        TooManyJobs: The caller, or all callers together, have as many unfinished jobs as they may.
    """
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
    """Store and queue a job that uses a trained model, such as scoring or calibration.

    Returns the record of the job.

    Args:
        store: Job store.
        celery: Celery application that sends the message.
        kind: Kind of work: score every image of the dataset, calibrate the model on it, evaluate the model with the
            dataset as normal images, or measure its detection limit on the dataset's good images.
        model: Model as ``name:version``.
        dataset: Name of the dataset.
        parameters: Parameters of the job.
        caller: See ``submit_training``.
        idempotency_key: See ``submit_training``.
        fingerprint: See ``submit_training``.

    Raises:
        BrokerDown: Nothing was stored.
        IdempotencyConflict: The key was used for another request.
        TooManyJobs: See ``submit_training``.
    """
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
    """Store and queue a job that compares model families on a dataset in order to propose one.

    Returns the record of the job.

    It trains on a CPU, so it waits among the trainings.

    Args:
        store: Job store.
        celery: Celery application that sends the message.
        dataset: Name of the dataset.
        parameters: Parameters of the job.
        caller: See ``submit_training``.
        idempotency_key: See ``submit_training``.
        fingerprint: See ``submit_training``.

    Raises:
        BrokerDown: Nothing was stored.
        IdempotencyConflict: The key was used for another request.
        TooManyJobs: See ``submit_training``.
    """
    request: dict[str, Any] = {"type": "recommend", "dataset": dataset, "parameters": dict(parameters or {})}
    return _record_and_send(store, celery, request, idempotency_key, fingerprint, queue=Queue.TRAIN_CPU, caller=caller)


def retry(
    store: JobStore,
    celery: Celery,
    job_id: str,
    caller: str = "",
    before_new: Callable[[], object] = lambda: None,
) -> Job:
    """Queue a new job that retries a failed or cancelled job.

    The new job continues from the files of the old job, such as its newest checkpoint, if there are any. Its record is
    returned.

    A terminal status never changes, so the retry is a job of its own with ``retry_of``. Repeating the call returns the
    same job.

    Args:
        store: Job store.
        celery: Celery application that sends the message.
        job_id: Id of the job to retry.
        caller: See ``submit_training``.
        before_new: Called before a new job is stored; what it raises prevents that.

    Raises:
        JobNotFound: No job has this id, or it is removed at this moment.
        TooManyJobs: See ``submit_training``.
        JobConflict: The job neither failed nor was cancelled.
        BrokerDown: Redis does not answer.
    """
    job = store.get(job_id)
    if job.status not in (Status.FAILED, Status.CANCELLED):
        raise JobConflict(f"job {job_id} is {job.status}; only a failed or cancelled job can be retried")
    fields = {"type", "model", "dataset", "preset", "architecture", "parameters", "promote", "device"}
    # Keys of callers never start with a blank, because HTTP strips it.
    key = f" retry {job_id}"
    request = job.model_dump(mode="json", include=fields)
    fingerprint = fingerprint_of(request)
    known = store.known(key, fingerprint)
    if known is not None:
        return known
    before_new()
    changes = {"queue": job.queue, "estimate": job.estimate, "retry_of": job_id, "caller": caller}
    return _record_and_send(store, celery, request, key, fingerprint, **changes)


def resume(store: JobStore, celery: Celery, job_id: str) -> Job:
    """Queue a paused job again, ahead of the jobs that have not run yet, and return its record.

    Raises:
        JobNotFound: No job has this id.
        JobConflict: The job is not paused.
        BrokerDown: Redis does not answer.
    """
    job, needs_message = store.request_resume(job_id)
    if needs_message:
        _send(celery, job, first=True)
    return job


def dispatch(celery: Celery, job: Job, first: bool = False) -> None:
    """Send the id of a job to its queue as a Celery message.

    If ``first`` is True, workers take the message before all messages that were sent without ``first``.

    Raises:
        BrokerDown: The broker takes no messages.
    """
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
    """Send a new Celery message for a queued job whose earlier message was lost or consumed.

    The job then waits in the first line of its queue, which workers serve before the other line. Returns False if the
    job is not queued.

    Raises:
        BrokerDown: The broker takes no messages.
    """
    if not store.lines.note_dispatch(job_id):
        return False
    dispatch(celery, store.get(job_id), first=True)
    return True


def fingerprint_of(request: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of a job request, in hexadecimal.

    The digest is that of the request as JSON. The order of the fields does not matter.
    """
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
