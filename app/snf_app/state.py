"""Application state and its FastAPI dependencies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, Request

from snf_app.calibrations.service import RecentEvidence
from snf_app.datasets.service import DatasetUploads
from snf_app.drift.service import DriftMonitor
from snf_app.health.state_collector import StateCollector
from snf_app.jobs.events import EventStreams
from snf_app.jobs.service import JobService, JobStoreMonitor
from snf_app.metrics.registry import ServiceMetrics
from snf_app.registry.model_pool import ModelPool, memory_limit
from snf_app.registry.service import ModelUploads
from snf_app.scoring.fair_queue import FairQueue
from snf_app.scoring.service import ScoringService
from snf_models.datasets import DatasetStore
from snf_models.registry.registry import Registry
from snf_worker.broker.connection import redis_client
from snf_worker.jobs.measured import MeasuredTrainings
from snf_worker.jobs.store import JobLimits, JobStore
from snf_worker.jobs.submission import make_celery
from snf_worker.process_setup import beat
from snf_worker.runtime.machine import WorkerRegistry
from snf_worker.settings import Settings

AppState = dict[str, Any]
"""Objects that live as long as the service, such as the model pool; endpoints get them from ``request.state``."""


@asynccontextmanager
async def open_state(
    settings: Settings, draining: threading.Event, *, in_process: bool = False
) -> AsyncIterator[AppState]:
    """Context manager that starts the service's long-lived objects, such as the model pool, and stops them.

    At the end, the scoring thread gets a few seconds to finish the accepted work. Images that wait to be decoded and
    models that wait to be loaded are cancelled. ``in_process`` is for one command: nothing is loaded, watched or
    removed that it does not ask for.
    """
    client = redis_client(settings)
    job_limits = JobLimits(settings.max_jobs_per_caller, settings.max_jobs)
    job_store = JobStore(client, settings.key_prefix, settings.idempotency_hours * 3600, job_limits)
    job_store_monitor = JobStoreMonitor(job_store)
    event_streams = EventStreams(settings, job_store_monitor, draining)
    dataset_store = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
    dataset_uploads = DatasetUploads(settings, dataset_store, draining)
    worker_registry = WorkerRegistry(client, settings.key_prefix)
    metrics = ServiceMetrics()
    registry = Registry(settings.registry_dir)
    model_pool = ModelPool(registry, settings.engine_options, memory_limit(settings))
    fair_queue = FairQueue(
        settings.queue_images, settings.queue_requests, metrics, largest=settings.max_images_per_request
    )
    drift_monitor = DriftMonitor(settings)
    recent_evidence = RecentEvidence()
    job_service = JobService(
        settings=settings,
        registry=registry,
        datasets=dataset_store,
        jobs=job_store,
        celery=make_celery(settings),
        workers=worker_registry,
        trainings=MeasuredTrainings(client, settings.key_prefix),
    )

    fair_queue.start()
    if not in_process:
        model_pool.start()
        job_store_monitor.start()
        dataset_uploads.start()
        drift_monitor.start()
        metrics.registry.register(StateCollector(fair_queue, model_pool, job_store_monitor, drift_monitor))
    try:
        async with _measured_lag(metrics):
            yield {
                "settings": settings,
                "metrics": metrics,
                "draining": draining,
                "registry": registry,
                "model_pool": model_pool,
                "model_uploads": ModelUploads(settings, registry, draining),
                "fair_queue": fair_queue,
                "scoring_service": ScoringService(
                    settings, model_pool, fair_queue, metrics, drift_monitor, recent_evidence
                ),
                "drift_monitor": drift_monitor,
                "recent_evidence": recent_evidence,
                "dataset_store": dataset_store,
                "dataset_uploads": dataset_uploads,
                "job_store": job_store,
                "job_store_monitor": job_store_monitor,
                "event_streams": event_streams,
                "job_service": job_service,
                "worker_registry": worker_registry,
            }
    finally:
        draining.set()
        dataset_uploads.stop()
        job_store_monitor.stop(wait_s=0)  # a ping that hangs must not delay the end of the process
        fair_queue.close()
        drift_monitor.close()
        model_pool.close()
        await event_streams.close()
        client.close()


LAG_S = 0.5  # seconds between two measurements of the lag of the event loop


@asynccontextmanager
async def _measured_lag(metrics: ServiceMetrics) -> AsyncIterator[None]:
    """Record how late a sleeping task wakes up, and send the launcher a heartbeat."""

    async def measure() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_S
            await asyncio.sleep(LAG_S)
            metrics.lag.observe(max(0.0, loop.time() - due))
            beat()

    task = asyncio.create_task(measure(), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _part(name: str) -> Any:
    # A coroutine, because FastAPI runs plain functions in a thread, which costs more than this lookup.
    async def part(request: Request) -> Any:
        return getattr(request.state, name)

    return Depends(part)


SettingsDep = Annotated[Settings, _part("settings")]
MetricsDep = Annotated[ServiceMetrics, _part("metrics")]
DrainingDep = Annotated[threading.Event, _part("draining")]  # set once the service has been asked to stop

RegistryDep = Annotated[Registry, _part("registry")]
ModelPoolDep = Annotated[ModelPool, _part("model_pool")]
ModelUploadsDep = Annotated[ModelUploads, _part("model_uploads")]
FairQueueDep = Annotated[FairQueue, _part("fair_queue")]
ScoringServiceDep = Annotated[ScoringService, _part("scoring_service")]
DriftMonitorDep = Annotated[DriftMonitor, _part("drift_monitor")]
RecentEvidenceDep = Annotated[RecentEvidence, _part("recent_evidence")]

DatasetStoreDep = Annotated[DatasetStore, _part("dataset_store")]
DatasetUploadsDep = Annotated[DatasetUploads, _part("dataset_uploads")]

JobStoreDep = Annotated[JobStore, _part("job_store")]
JobStoreMonitorDep = Annotated[JobStoreMonitor, _part("job_store_monitor")]
EventStreamsDep = Annotated[EventStreams, _part("event_streams")]
JobServiceDep = Annotated[JobService, _part("job_service")]
WorkerRegistryDep = Annotated[WorkerRegistry, _part("worker_registry")]
