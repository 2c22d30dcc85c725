from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from snf_app import package_version
from snf_app.access.permissions import SCOPE, caller_of
from snf_app.http.openapi import sends
from snf_app.http.router import Router
from snf_app.registry.model_pool import ModelListing, ModelPool, ModelState
from snf_app.scoring.fair_queue import FairQueue
from snf_app.state import DrainingDep, FairQueueDep, JobStoreMonitorDep, MetricsDep, ModelPoolDep, SettingsDep
from snf_client.schemas.service import CallerView, Health, Readiness, ServiceStatus
from snf_worker.keys import ROLES
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
    if stopping.is_set():
        return ServiceReadiness("draining", None, listing)
    if turn_s > settings.request_timeout_s:
        reason = f"a batch of images has been scored for {turn_s:.0f} s and does not end"
        return ServiceReadiness("stuck", reason, listing)
    if not pool.started:
        return ServiceReadiness("loading", None, listing)
    failed = listing and all(model.state is ModelState.FAILED for model in listing)
    return ServiceReadiness("failed" if failed else "ready", None, listing)


router = Router(tag="operations")


@router.get("/v1/me", "Show who is calling")
async def show_caller(request: Request) -> CallerView:
    """Show who is calling: the name, id and role of the API key that the request carries.

    The secret of the key is not shown. Without keys, the name is `anyone` and the role `admin`.
    """
    caller = caller_of(request.scope)
    return CallerView(
        name=caller.label or "anyone",
        key=caller.key,
        role=caller.role,
        may=list(ROLES[: ROLES.index(caller.role) + 1]),
    )


@router.get("/healthz", "Check that the process runs", role=None, errors=(429,))
async def health() -> Health:
    """Answer 200 while the process runs; neither the models nor the job store is checked."""
    return Health(status="alive", version=package_version())


@router.get(
    "/readyz",
    "Check that the service can score",
    role=None,
    errors=(429,),
    responses={
        503: {"model": Readiness, "description": "Loading, draining or stuck, or all models have failed."},
    },
)
async def readiness(
    pool: ModelPoolDep,
    queue: FairQueueDep,
    job_store: JobStoreMonitorDep,
    stopping: DrainingDep,
    settings: SettingsDep,
    request: Request,
    response: Response,
) -> Readiness:
    """Answer 200 if images can be scored, else 503.

    It is 503 while models load, if all have failed, and while the service stops.

    It is 503 as well while scoring is stuck: a batch has been worked on for longer than a request may take. The answer
    lists the models, and the reasons of those that could not be loaded; without a key, where the service has keys,
    `models` and `failed` are empty.
    """
    readiness = await readiness_of(pool, queue, stopping, settings)
    listing = readiness.listing if SCOPE in request.scope else []
    failed = {
        f"{version.name}:{version.version}": reason or "unknown"
        for version, (state, reason) in pool.states().items()
        if state is ModelState.FAILED and listing
    }
    unreadable = [model for model in listing if model.state is ModelState.FAILED and model.live is None]
    failed |= {model.name: model.reason or "unknown" for model in unreadable}
    response.status_code = 200 if readiness.status == "ready" else 503
    return Readiness(
        status=readiness.status,
        reason=readiness.reason,
        models={model.name: model.state.value for model in listing},
        failed=failed,
        jobs="ok" if job_store.answers else "degraded",
        queue={"images": queue.images, "capacity": queue.capacity},
    )


@router.get(
    "/metrics",
    "Metrics for Prometheus",
    **sends("The metrics.", texts={"text/plain": "snf_queue_images 0.0\n..."}),
)
async def metrics(metrics: MetricsDep, pool: ModelPoolDep) -> Response:
    """Return the metrics of the service in the text format of Prometheus.

    They cover requests, images, queues, models and drift. The call does not wait for the job store.
    """
    text = await asyncio.to_thread(metrics.render, pool.registered)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)
