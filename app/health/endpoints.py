"""Endpoints for health, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.access.permissions import MayRead
from app.health.schemas import Health, Readiness
from app.health.version import package_version
from app.http.dependencies import DrainingDep, JobStoreMonitorDep, MetricsDep, ModelPoolDep, ScoringQueueDep
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
    responses={503: {"model": Readiness, "description": "Loading, draining, or without any model."}},
)
async def readiness(
    pool: ModelPoolDep,
    queue: ScoringQueueDep,
    job_store: JobStoreMonitorDep,
    stopping: DrainingDep,
    response: Response,
) -> Readiness:
    """Answer 200 if images can be scored; 503 while models load, if all have failed, and while the service stops.

    The answer lists the models that could not be loaded, with reasons.
    """
    listing = await pool.recent_listing()
    failed = {
        f"{version.name}:{version.version}": reason or "unknown"
        for version, (state, reason) in pool.states().items()
        if state is ModelState.FAILED
    }
    unreadable = [model for model in listing if model.state is ModelState.FAILED and model.live is None]
    failed |= {model.name: model.reason or "unknown" for model in unreadable}
    status = _status(pool, listing, draining=stopping.is_set())
    response.status_code = 200 if status == "ready" else 503
    return Readiness(
        status=status,
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
    pool: ModelPool, listing: list[ModelListing], *, draining: bool
) -> Literal["ready", "loading", "draining", "failed"]:
    if draining:
        return "draining"
    if not pool.started:
        return "loading"
    if listing and all(model.state is ModelState.FAILED for model in listing):
        return "failed"
    return "ready"
