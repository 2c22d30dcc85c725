"""Long-lived parts of the service, which an endpoint names as typed parameters: ``jobs: JobStoreDep``."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import Depends, Request

from snf_app.calibrations.recent_evidence import RecentEvidence
from snf_app.datasets.uploads import DatasetUploads
from snf_app.drift.monitor import DriftMonitor
from snf_app.inference_protocol.service import InferenceService
from snf_app.jobs.event_streams import EventStreams
from snf_app.jobs.service import JobService
from snf_app.jobs.store_monitor import JobStoreMonitor
from snf_app.metrics.registry import ServiceMetrics
from snf_app.registry.imports import ModelUploads
from snf_app.registry.model_pool import ModelPool
from snf_app.scoring.queue import ScoringQueue
from snf_app.scoring.service import ScoringService
from snf_models.datasets import DatasetStore
from snf_models.registry.registry import Registry
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.worker_registry import WorkerRegistry
from snf_worker.settings import Settings


def _part(name: str) -> Any:
    # A coroutine, because FastAPI runs plain functions in a thread, which costs more than this lookup.
    async def part(request: Request) -> Any:
        return getattr(request.state, name)

    return Depends(part)


SettingsDep = Annotated[Settings, _part("settings")]
MetricsDep = Annotated[ServiceMetrics, _part("metrics")]
DrainingDep = Annotated[threading.Event, _part("draining")]
"""Set once the service has been asked to stop."""

RegistryDep = Annotated[Registry, _part("registry")]
ModelPoolDep = Annotated[ModelPool, _part("model_pool")]
ModelUploadsDep = Annotated[ModelUploads, _part("model_uploads")]
ScoringQueueDep = Annotated[ScoringQueue, _part("scoring_queue")]
ScoringServiceDep = Annotated[ScoringService, _part("scoring_service")]
InferenceServiceDep = Annotated[InferenceService, _part("inference_service")]
DriftMonitorDep = Annotated[DriftMonitor, _part("drift_monitor")]
RecentEvidenceDep = Annotated[RecentEvidence, _part("recent_evidence")]

DatasetStoreDep = Annotated[DatasetStore, _part("dataset_store")]
DatasetUploadsDep = Annotated[DatasetUploads, _part("dataset_uploads")]

JobStoreDep = Annotated[JobStore, _part("job_store")]
JobStoreMonitorDep = Annotated[JobStoreMonitor, _part("job_store_monitor")]
EventStreamsDep = Annotated[EventStreams, _part("event_streams")]
JobServiceDep = Annotated[JobService, _part("job_service")]
WorkerRegistryDep = Annotated[WorkerRegistry, _part("worker_registry")]
