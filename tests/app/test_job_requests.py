"""Jobs that cannot succeed are refused before they are queued."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi.testclient import TestClient

from app.house import House
from app.job_requests import JobPlan, plan_job, require_memory
from app.problems import Problem
from app.schemas import Estimate, JobRequest
from app.service import create_app
from models.datasets import DatasetStore
from worker.jobs import Queue
from worker.presence import WorkerInfo
from worker.settings import Settings


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    settings = Settings(home=tmp_path, data_dir=tmp_path, redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings)) as client:
        answer = client.post("/v1/jobs", json={"type": "train", "dataset": "mnist", "model": "m"})
    assert (answer.status_code, answer.json()["type"]) == (422, "dataset-unfit")
    assert "mnist.npz" in answer.json()["detail"]
    assert str(tmp_path) not in answer.json()["detail"]


@pytest.mark.parametrize(("memory", "fits"), [(2**20, False), (2**40, True), (None, None)])
def test_an_estimate_says_whether_a_worker_has_the_memory(
    tmp_path: Path, memory: int | None, fits: bool | None
) -> None:
    worker = WorkerInfo(
        name="w", device="cpu", queues=(Queue.TRAIN_CPU,), memory_bytes=memory, started_at=datetime.now(UTC)
    )
    house = SimpleNamespace(
        settings=Settings(home=tmp_path),
        datasets=DatasetStore(tmp_path / "datasets"),
        presence=SimpleNamespace(workers=lambda: [worker]),
        pace=SimpleNamespace(slowness=lambda _device, _preset: (2.0, True)),
    )
    request = JobRequest(type="train", dataset="mnist-mini", model="m", preset="snf-glow-tiny")
    plan = plan_job(request, cast(House, house))
    assert plan.estimate is not None
    assert (plan.queue, plan.workers, plan.estimate.fits, plan.estimate.measured) == (Queue.TRAIN_CPU, 1, fits, True)


def test_a_training_that_no_worker_has_the_memory_for_is_refused_with_the_figures() -> None:
    estimate = Estimate(
        seconds=1.0, memory_bytes=3000, parameters=1, slowness=1.0, measured=False, fits=False, available_bytes=2000
    )
    plan = JobPlan("m", Queue.TRAIN_CPU, 1, estimate)
    with pytest.raises(Problem) as refused:
        require_memory(plan)
    assert (refused.value.status, refused.value.slug) == (422, "out-of-memory-expected")
    assert refused.value.extensions == {"memory_bytes": 3000, "available_bytes": 2000}
    assert all(figure in refused.value.detail for figure in ("3000", "2000", '"force": true'))
    for fits in (True, None):
        require_memory(replace(plan, estimate=estimate.model_copy(update={"fits": fits})))
    require_memory(replace(plan, estimate=None))
