"""Submitting jobs: the record first, then its id to Celery."""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]
from kombu.exceptions import OperationalError

from worker.celery_app import FIRST, IN_ORDER, TASK
from worker.jobs import QUEUES, Job, new_job_id
from worker.problems import BrokerDown
from worker.store import JobStore

log = logging.getLogger(__name__)


def submit_training(
    store: JobStore,
    celery: Celery,
    *,
    model: str,
    dataset: str,
    preset: str,
    parameters: Mapping[str, Any] | None = None,
    promote: bool = False,
    idempotency_key: str | None = None,
) -> Job:
    """Queues a training job and answers its record; the caller has validated the arguments.

    A repeated `idempotency_key` answers the job made first. Raises `BrokerDown` where nothing was recorded and
    `IdempotencyConflict` where the key belongs to a different request. Blocks for a few seconds at most; not
    for an event loop.
    """
    request: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "preset": preset,
        "parameters": dict(parameters or {}),
        "promote": promote,
    }
    fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    job, new = store.create(Job(id=new_job_id(), created_at=datetime.now(UTC), **request), idempotency_key, fingerprint)
    if new:
        try:
            dispatch(celery, job)
        except BrokerDown as problem:
            # The record is durable: the reconciler sends the id again, so the job is accepted all the same.
            log.warning("job %s is recorded but not sent yet: %s", job.id, problem.detail)
    return job


def dispatch(celery: Celery, job: Job, first: bool = False) -> None:
    """Sends a job's id to its queue, in front of all others where `first`; raises `BrokerDown`."""
    try:
        celery.send_task(
            TASK,
            args=[job.id],
            queue=QUEUES[job.type],
            priority=FIRST if first else IN_ORDER,
            ignore_result=True,
        )
    except (OperationalError, redis.RedisError, OSError) as error:
        raise BrokerDown(f"the broker does not take messages: {error}") from error
