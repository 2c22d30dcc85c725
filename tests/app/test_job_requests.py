"""Jobs that cannot succeed are refused before they are queued."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi.testclient import TestClient

from app.house import House
from app.job_requests import plan_job
from app.schemas import JobRequest
from app.service import create_app
from models.datasets import DatasetStore
from tests.local import LOCAL
from worker.jobs import Queue
from worker.presence import WorkerInfo
from worker.settings import Settings


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    settings = Settings(home=tmp_path, data_dir=tmp_path, redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings), LOCAL) as client:
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
    assert (plan.queue, plan.workers, plan.estimate.fits, plan.estimate.measured) == (Queue.TRAIN_CPU, 1, fits, True)
