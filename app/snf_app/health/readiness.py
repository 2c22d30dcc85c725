"""Readiness check of the service, shared by the health endpoints of all protocols."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from snf_app.registry.model_pool import ModelPool
from snf_app.registry.served_model import ModelListing, ModelState
from snf_app.scoring.fair_queue import FairQueue
from snf_client.schemas.service import ServiceStatus
from snf_worker.settings import Settings


@dataclass(frozen=True)
class ServiceReadiness:
    """Whether the service can score."""

    status: ServiceStatus
    reason: str | None  # why a service is ``stuck``
    listing: list[ModelListing]  # all registered models


async def readiness_of(
    pool: ModelPool, queue: FairQueue, stopping: threading.Event, settings: Settings
) -> ServiceReadiness:
    listing = await pool.recent_listing()
    turn_s = queue.turn_s
    stuck = turn_s > settings.request_timeout_s
    status = _status(pool, listing, draining=stopping.is_set(), stuck=stuck)
    reason = f"a batch of images has been scored for {turn_s:.0f} s and does not end" if status == "stuck" else None
    return ServiceReadiness(status, reason, listing)


def _status(pool: ModelPool, listing: list[ModelListing], *, draining: bool, stuck: bool) -> ServiceStatus:
    if draining:
        return "draining"
    if stuck:
        return "stuck"
    if not pool.started:
        return "loading"
    if listing and all(model.state is ModelState.FAILED for model in listing):
        return "failed"
    return "ready"
