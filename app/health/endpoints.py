"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.access.permissions import MayRead
from app.health.schemas import Health, Readiness
from app.http.dependencies import DrainingDep, JobStoreMonitorDep, MetricsDep, ModelPoolDep, ScoringQueueDep
from app.http.errors import responses
from app.registry.model_pool import ModelListing, ModelPool, ModelState

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="health", summary="Is the process alive?")
async def health() -> Health:
    """Answers while the event loop runs."""
    return Health(status="alive")


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Can it score?",
    responses={503: {"model": Readiness, "description": "Loading, draining, or without any model."}},
)
async def readiness(
    pool: ModelPoolDep,
    queue: ScoringQueueDep,
    job_store: JobStoreMonitorDep,
    stopping: DrainingDep,
    response: Response,
) -> Readiness:
    """200 once the shipped models are loaded, until the service stops; says which parts are degraded."""
    listing = await asyncio.to_thread(pool.listing)
    failed = {
        f"{one.name}:{one.version}": reason or "unknown"
        for one, (state, reason) in pool.states().items()
        if state is ModelState.FAILED
    }
    failed |= {one.name: one.reason or "unknown" for one in listing if one.live is None}
    status = _status(pool, listing, draining=stopping.is_set())
    response.status_code = 200 if status == "ready" else 503
    return Readiness(
        status=status,
        models={one.name: one.state.value for one in listing},
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
    """Requests, images, queues, models and drift in Prometheus' text format; never waits for the job store."""
    text = await asyncio.to_thread(metrics.render, pool.registered)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _status(
    pool: ModelPool, listing: list[ModelListing], *, draining: bool
) -> Literal["ready", "loading", "draining", "failed"]:
    if draining:
        return "draining"
    if not pool.started:
        return "loading"
    if listing and all(one.state is ModelState.FAILED for one in listing):
        return "failed"
    return "ready"
