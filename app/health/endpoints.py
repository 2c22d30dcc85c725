"""Endpoints for health, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.access.permissions import MayRead
from app.health.schemas import Health, Readiness
from app.health.version import package_version
from app.http.dependencies import (
    DrainingDep,
    JobStoreMonitorDep,
    MetricsDep,
    ModelPoolDep,
    ScoringQueueDep,
    SettingsDep,
)
from app.http.errors import responses
from app.registry.model_pool import ModelListing, ModelPool, ModelState

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="health", summary="Check that the process runs")
async def health() -> Health:
    """Answer 200 while the process runs; neither the models nor the job store is checked."""
    return Health(status="alive", version=package_version())


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Check that the service can score",
    responses={503: {"model": Readiness, "description": "Loading, draining, stuck, or without any model."}},
)
async def readiness(
    pool: ModelPoolDep,
    queue: ScoringQueueDep,
    job_store: JobStoreMonitorDep,
    stopping: DrainingDep,
    settings: SettingsDep,
    response: Response,
) -> Readiness:
    """Answer 200 if images can be scored; 503 while models load, if all have failed, and while the service stops.

    It is 503 as well while scoring is stuck: a batch has been worked on for longer than a request may take. The answer
    lists the models that could not be loaded, with reasons.
    """
    listing = await pool.recent_listing()
    failed = {
        f"{version.name}:{version.version}": reason or "unknown"
        for version, (state, reason) in pool.states().items()
        if state is ModelState.FAILED
    }
    unreadable = [model for model in listing if model.state is ModelState.FAILED and model.live is None]
    failed |= {model.name: model.reason or "unknown" for model in unreadable}
    stuck_s = queue.turn_s if queue.turn_s > settings.request_timeout_s else None
    status = _status(pool, listing, draining=stopping.is_set(), stuck=stuck_s is not None)
    response.status_code = 200 if status == "ready" else 503
    return Readiness(
        status=status,
        reason=None if stuck_s is None else f"a batch of images has been scored for {stuck_s:.0f} s and does not end",
        models={model.name: model.state.value for model in listing},
        failed=failed,
        jobs="ok" if job_store.answers else "degraded",
        queue={"images": queue.images, "capacity": queue.capacity},
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    dependencies=[MayRead],
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses(401, 500)},
)
async def metrics(metrics: MetricsDep, pool: ModelPoolDep) -> Response:
    """Return Prometheus metrics of requests, images, queues, models and drift, without waiting for the job store."""
    text = await asyncio.to_thread(metrics.render, pool.registered)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _status(
    pool: ModelPool, listing: list[ModelListing], *, draining: bool, stuck: bool
) -> Literal["ready", "loading", "draining", "failed", "stuck"]:
    if draining:
        return "draining"
    if stuck:
        return "stuck"
    if not pool.started:
        return "loading"
    if listing and all(model.state is ModelState.FAILED for model in listing):
        return "failed"
    return "ready"
