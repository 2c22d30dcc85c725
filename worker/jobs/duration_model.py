from typing import cast

import redis

from worker.broker.connection import translate_redis_errors
from worker.jobs.record import Job, Status
from worker.queues import DeviceKind

GUESSED = "guessed"
"""Basis of an estimate that is only a guess. A job with such an estimate does not change the slowdown."""
_NEW = 0.5
"""Weight of the newest job in the average."""
_LIMITS = 0.02, 50.0
"""No job may move the average out of this range: it may have run in a debugger, or on a machine that slept."""


class DurationModel:
    """Slowdowns in Redis: times of past trainings over the reference machine's (``throughput.ASSUMED``)."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}pace"  # its name since the first version

    def slowdown(self, device: DeviceKind, preset: str) -> float | None:
        """Return the slowdown of a preset on a kind of device, else that of the latest training there, or None."""
        with translate_redis_errors():
            own, latest = cast(list[str | None], self._client.hmget(self._key, [f"{device}:{preset}", f"{device}:"]))
        value = own or latest
        return float(value) if value else None

    def learn(self, job: Job, device: DeviceKind) -> None:
        """Average the slowdown of a job, half and half, if the job did the whole work in one attempt."""
        measured = _slowdown_of(job)
        if measured is None:
            return
        before = self.slowdown(device, job.preset)
        now = measured if before is None else before * (1 - _NEW) + measured * _NEW
        now = min(max(now, _LIMITS[0]), _LIMITS[1])
        with translate_redis_errors():
            self._client.hset(self._key, mapping={f"{device}:{job.preset}": now, f"{device}:": now})


def _slowdown_of(job: Job) -> float | None:
    estimate = job.estimate
    if job.status is not Status.SUCCEEDED or estimate is None or estimate.get("basis") == GUESSED:
        return None
    # A retry goes on from the checkpoint of the other job, whose estimate it has.
    if job.attempts != 1 or job.retry_of is not None or job.started_at is None or job.finished_at is None:
        return None
    training = (job.architecture or {}).get("training", {}) | job.parameters
    if training.get("max_minutes") is not None:
        return None
    expected = float(estimate["seconds"]) / float(estimate["slowness"])
    return (job.finished_at - job.started_at).total_seconds() / max(expected, 1e-3)
