"""How long jobs took against their estimates, so that the next estimates fit this installation."""

from typing import cast

import redis

from worker.broker.connection import translate_redis_errors
from worker.jobs.record import Job, Status
from worker.queues import DeviceKind

_NEW = 0.5
"""Weight of the newest job in the average."""
_LIMITS = 0.02, 50.0
"""A job may have waited in a debugger, or on a machine that slept; nothing learned may leave this range."""


class Pace:
    """Slowness against the reference machine of `training.cost.estimate`, one number a kind of device and preset."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._key = f"{prefix}pace"

    def slowness(self, device: DeviceKind, preset: str) -> tuple[float, bool]:
        """Measured over expected time, and whether it was measured at all (1.0 where it was not).

        That of the preset where one of its jobs ended here, else that of the latest job on this kind of device.
        Raises `BrokerDown`.
        """
        with translate_redis_errors():
            own, any_ = cast(list[str | None], self._client.hmget(self._key, [f"{device}:{preset}", f"{device}:"]))
        found = own or any_
        return (float(found), True) if found else (1.0, False)

    def learn(self, job: Job, device: DeviceKind) -> None:
        """Takes a job in that succeeded in one uninterrupted attempt; others say nothing. Raises `BrokerDown`."""
        measured = _slowness_of(job)
        if measured is None:
            return
        before, known = self.slowness(device, job.preset)
        now = before * (1 - _NEW) + measured * _NEW if known else measured
        now = min(max(now, _LIMITS[0]), _LIMITS[1])
        with translate_redis_errors():
            self._client.hset(self._key, mapping={f"{device}:{job.preset}": now, f"{device}:": now})


def _slowness_of(job: Job) -> float | None:
    if job.status is not Status.SUCCEEDED or job.attempts != 1 or job.estimate is None:
        return None
    if job.started_at is None or job.finished_at is None or job.parameters.get("max_minutes") is not None:
        return None
    expected = float(job.estimate["seconds"]) / float(job.estimate["slowness"])
    return (job.finished_at - job.started_at).total_seconds() / max(expected, 1e-3)
