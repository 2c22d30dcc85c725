"""Submission of jobs: a record is stored first, then a message of Celery wakes a worker, which takes the first job."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]
from celery.signals import setup_logging  # type: ignore[import-untyped]
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from snf_worker.broker.connection import celery_url
from snf_worker.errors import BrokerDown, JobConflict
from snf_worker.jobs.record import DeviceKind, Job, Queue, Status, new_job
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.machine import WorkerInfo
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

TASK = "worker.run_job"


def make_celery(settings: Settings) -> Celery:
    """Return a Celery application for the broker URL and the job queues; it connects on first use."""
    app = Celery("snf", set_as_current=False)
    transport = {
        "ack_emulation": False,
        "global_keyprefix": _prefix(settings),
        # None of a worker's queues starves.
        "queue_order_strategy": "round_robin",
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": True,
    }
    app.conf.update(
        broker_url=celery_url(settings),
        broker_transport_options=transport,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=settings.broker_timeout_s,
        task_publish_retry_policy={
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        task_ignore_result=True,
        # Leases and the reconciler replace lost messages: in an outage Kombu would wait for ever to acknowledge late.
        task_acks_late=False,
        task_queues={name.value: {"exchange": name.value, "routing_key": name.value} for name in Queue},
        task_default_queue=Queue.TRAIN_CPU.value,
        task_create_missing_queues=False,
        # A worker takes one message at a time.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=0,
        worker_pool="snf_worker.runtime.main:WakingThreads",
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # A job must survive a restart of the broker; its lease decides whether it may go on.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=30,
    )
    app.amqp.Connection = PromptConnection
    setup_logging.connect(_keep_our_logging)
    return app


class PromptConnection(Connection):
    """Celery connection to the message broker that retries every 1 to 3 s during an outage."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect with pauses of 1 to 3 s between retries, instead of Kombu's 2 to 30 s."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": 3}
        return super().ensure_connection(*args, **pauses | options)  # type: ignore[no-untyped-call]


def wake(celery: Celery, queue: Queue) -> None:
    """Ask a worker to take the first job of a queue; raise ``BrokerDown``."""
    try:
        celery.send_task(TASK, queue=queue.value, ignore_result=True)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise BrokerDown(f"the broker takes no messages: {error}") from error


def queue_key(settings: Settings, queue: Queue) -> str:
    """Return the key of the Redis list with the messages of a queue."""
    return f"{_prefix(settings)}{queue}"


def _prefix(settings: Settings) -> str:
    return f"{settings.key_prefix}celery:"


def _keep_our_logging(**_: object) -> None:
    """Keep Celery from configuring logging, which it does unless this signal has a receiver."""


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
