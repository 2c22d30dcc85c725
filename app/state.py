"""What one running service is made of, and how a route gets hold of it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, TypedDict

from celery import Celery  # type: ignore[import-untyped]
from fastapi import Depends, Request

from app.datasets.uploads import DatasetUploads
from app.drift.monitor import DriftMonitor
from app.health.state_collector import StateCollector
from app.jobs.event_streams import EventStreams
from app.jobs.store_monitor import JobStoreWatch
from app.metrics.loop_lag import watching_lag
from app.metrics.registry import Metrics
from app.registry.imports import ModelUploads
from app.registry.model_pool import Serving
from app.scoring.decoders import Decoders
from app.scoring.queue import ScoringQueue
from models.datasets import DatasetStore
from worker.broker.celery_app import make_celery
from worker.broker.embedded import redis_client
from worker.jobs.duration_model import DurationModel
from worker.jobs.store import JobStore
from worker.jobs.worker_registry import Presence
from worker.settings import Settings

DECODERS = 2
"""Threads that decode images beside the scoring thread."""


@dataclass(frozen=True)
class House:
    """The parts that live as long as the service."""

    settings: Settings
    queue: ScoringQueue
    serving: Serving
    decoders: Decoders
    jobs: JobStore
    presence: Presence
    durations: DurationModel
    jobs_watch: JobStoreWatch
    event_streams: EventStreams
    celery: Celery
    datasets: DatasetStore
    dataset_uploads: DatasetUploads
    model_uploads: ModelUploads
    drift: DriftMonitor
    metrics: Metrics
    draining: threading.Event


class State(TypedDict):
    """The lifespan's state, as requests see it."""

    house: House


@asynccontextmanager
async def open_house(settings: Settings, draining: threading.Event) -> AsyncIterator[House]:
    """Starts the parts, and stops them in the order that lets accepted work finish."""
    client = redis_client(settings)
    jobs = JobStore(client, settings.key_prefix, settings.idempotency_hours * 3600)
    jobs_watch = JobStoreWatch(jobs)
    datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
    metrics = Metrics()
    serving = Serving(settings.registry_dir, settings.engine_options)
    house = House(
        settings=settings,
        queue=ScoringQueue(
            settings.queue_images, settings.queue_requests, metrics, largest=settings.max_images_per_request
        ),
        serving=serving,
        decoders=Decoders(DECODERS),
        jobs=jobs,
        presence=Presence(client, settings.key_prefix),
        durations=DurationModel(client, settings.key_prefix),
        jobs_watch=jobs_watch,
        event_streams=EventStreams(settings, jobs_watch, draining),
        celery=make_celery(settings),
        datasets=datasets,
        dataset_uploads=DatasetUploads(settings, datasets, draining),
        model_uploads=ModelUploads(settings, serving.registry, draining),
        drift=DriftMonitor(settings),
        metrics=metrics,
        draining=draining,
    )
    house.queue.start()
    house.serving.start()
    house.jobs_watch.start()
    house.dataset_uploads.start()
    house.drift.start()
    house.metrics.registry.register(StateCollector(house.queue, house.serving, jobs_watch, house.drift))
    try:
        async with watching_lag(house.metrics):
            yield house
    finally:
        draining.set()
        house.dataset_uploads.stop()
        house.jobs_watch.stop()
        house.decoders.close()
        house.queue.close()
        house.drift.close()
        house.serving.close()
        await house.event_streams.close()
        client.close()


# FastAPI runs a dependency that is no coroutine in a thread, which costs more than what such a one does.
async def the_house(request: Request) -> House:
    """The running service's parts."""
    house = request.state.house
    assert isinstance(house, House)
    return house


InHouse = Annotated[House, Depends(the_house)]
