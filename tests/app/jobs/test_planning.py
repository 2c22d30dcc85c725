"""Jobs that cannot succeed are refused before they are queued."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi.testclient import TestClient

from app.http.errors import Problem
from app.jobs import estimates
from app.jobs.planning import JobPlan, plan_job, require_feasible
from app.jobs.schemas import Estimate, JobRequest
from app.main import create_app
from models.datasets import DatasetStore
from models.features.lite0 import LITE0
from models.features.store import BackboneStore
from models.registry.registry import Registry
from tests.support.disks import Disk
from tests.support.local import LOCAL
from tests.support.service_settings import service_settings
from worker.broker.connection import redis_client
from worker.errors import BrokerDown
from worker.jobs.duration_model import DurationModel
from worker.jobs.worker_registry import WorkerInfo, WorkerRegistry
from worker.queues import Queue
from worker.settings import Settings

pytestmark = pytest.mark.usefixtures("no_shipped_models")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "WAIT_S", 300.0)


def _running(*workers: WorkerInfo) -> WorkerRegistry:
    served = frozenset(queue for worker in workers for queue in worker.queues)
    return cast(WorkerRegistry, SimpleNamespace(workers=lambda: list(workers), served=lambda: served))


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    settings = service_settings(tmp_path, data_dir=tmp_path)
    with TestClient(create_app(settings), LOCAL) as client:
        answer = client.post("/v1/jobs", json={"type": "train", "dataset": "mnist", "model": "m"})
    assert (answer.status_code, answer.json()["type"]) == (422, "dataset-unfit")
    assert "mnist.npz" in answer.json()["detail"]
    assert str(tmp_path) not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("device", "memory", "of_each", "fits"),
    [
        ("cpu", 2**20, None, False),
        ("cpu", 2**40, None, True),
        ("cpu", None, None, None),
        ("cpu", 2**40, 2**20, False),
        ("cpu", 2**40, 2**28, False),
        ("cpu", 2**20, 2**34, True),
        ("cuda:0", 2**20, None, None),
        ("cuda:0", 2**40, 2**20, False),
    ],
)
def test_an_estimate_says_whether_a_worker_has_the_memory(
    tmp_path: Path, device: str, memory: int | None, of_each: int | None, fits: bool | None
) -> None:
    queue = Queue.TRAIN_CPU if device == "cpu" else Queue.TRAIN_GPU
    worker = WorkerInfo(
        name="w",
        device=device,
        queues=(queue,),
        memory_bytes=memory,
        train_memory_bytes=of_each,
        started_at=datetime.now(UTC),
    )
    settings = Settings(home=tmp_path)
    workers = _running(worker)
    durations = cast(DurationModel, SimpleNamespace(slowdown=lambda _device, _preset: 2.0))
    request = JobRequest(type="train", dataset="mnist-mini", model="m", preset="snf-glow-tiny")
    plan = plan_job(
        request, settings, Registry(settings.registry_dir), DatasetStore(tmp_path / "datasets"), workers, durations
    )
    assert plan.estimate is not None
    assert (plan.queue, plan.workers, plan.estimate.fits, plan.estimate.measured) == (queue, 1, fits, True)


@pytest.mark.parametrize("preset", ["snf-features", "snf-hybrid"])
def test_a_backbone_that_is_not_here_is_named(tmp_path: Path, preset: str) -> None:
    settings = service_settings(tmp_path)
    request = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": preset}
    with TestClient(create_app(settings), LOCAL) as client:
        answer = client.post("/v1/jobs", json=request | {"parameters": {"backbone": "dinov2"}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/body/parameters/backbone"
    assert "snf backbones add dinov2" in error["detail"]


def test_a_fit_in_closed_form_waits_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneStore, "find", lambda _store, _name: LITE0)
    settings = Settings(home=tmp_path)
    gpu = WorkerInfo(
        name="w",
        device="cuda:0",
        queues=(Queue.TRAIN_GPU,),
        memory_bytes=2**40,
        train_memory_bytes=None,
        started_at=datetime.now(UTC),
    )
    workers = _running(gpu)
    durations = cast(DurationModel, SimpleNamespace(slowdown=lambda _device, _preset: 1.0))
    common = (settings, Registry(settings.registry_dir), DatasetStore(tmp_path / "datasets"), workers, durations)

    def request(preset: str, device: str) -> JobRequest:
        return JobRequest.model_validate(
            {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": preset, "device": device}
        )

    assert plan_job(request("snf-features", "auto"), *common).queue is Queue.TRAIN_CPU
    assert plan_job(request("snf-hybrid", "auto"), *common).queue is Queue.TRAIN_GPU

    def down() -> list[WorkerInfo]:
        raise BrokerDown

    unknown = cast(WorkerRegistry, SimpleNamespace(workers=down))
    with pytest.raises(Problem, match="on a CPU"):  # said before the workers are asked for
        plan_job(request("snf-features", "cuda"), *common[:3], unknown, durations)


def test_a_training_that_no_worker_has_the_memory_for_is_refused_with_the_figures() -> None:
    estimate = Estimate(
        seconds=1.0, memory_bytes=3000, parameters=1, slowness=1.0, measured=False, fits=False, available_bytes=2000
    )
    plan = JobPlan("m", Queue.TRAIN_CPU, 1, estimate)
    with pytest.raises(Problem) as refused:
        require_feasible(plan)
    assert (refused.value.status, refused.value.slug) == (422, "out-of-memory-expected")
    assert refused.value.extensions == {"memory_bytes": 3000, "available_bytes": 2000}
    assert all(figure in refused.value.detail for figure in ("3000", "2000", '"force": true'))
    for fits in (True, None):
        require_feasible(replace(plan, estimate=estimate.model_copy(update={"fits": fits})))
    require_feasible(replace(plan, estimate=None))


@pytest.mark.parametrize(
    ("basis", "days", "refused"), [("assumed", 15, True), ("guessed", 15, False), ("guessed", 141, True)]
)
def test_a_training_that_would_take_too_long_is_refused_with_the_time(basis: str, days: int, refused: bool) -> None:
    estimate = Estimate.model_validate(
        {"seconds": 86_400.0 * days, "memory_bytes": 1, "parameters": 1, "slowness": 1.0, "measured": False}
        | {"fits": True, "basis": basis}
    )
    plan = JobPlan("m", Queue.TRAIN_CPU, 1, estimate)
    if not refused:
        require_feasible(plan)
        return
    with pytest.raises(Problem, match=f"expected to take {days} days; expected at most 14 days") as problem:
        require_feasible(plan)
    assert (problem.value.status, problem.value.slug) == (422, "too-long-expected")


def test_what_fits_no_machine_is_refused_before_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of 273 years is refused on a guess; minutes, or force, let it start."""
    monkeypatch.setattr(estimates, "WAIT_S", 0.0)
    monkeypatch.setattr(estimates, "_counting", lambda: ThreadPoolExecutor(1))
    settings = service_settings(tmp_path)
    request = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-2l-16k"}
    endless = {"parameters": {"max_steps": 10_000_000, "batch_size": 4096}}
    workers = _running()
    durations = cast(DurationModel, SimpleNamespace(slowdown=lambda _device, _preset: 1e4))
    common = (settings, Registry(settings.registry_dir), DatasetStore(tmp_path / "datasets"), workers, durations)
    with pytest.raises(Problem, match=r"expected to take .* years; expected at most 14 days"):
        require_feasible(plan_job(JobRequest.model_validate(request | endless), *common))
    limited = {"parameters": endless["parameters"] | {"max_minutes": 10}}
    require_feasible(plan_job(JobRequest.model_validate(request | limited), *common))


def test_a_queued_job_says_what_it_waits_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = WorkerInfo(name="w", device="cpu", queues=(Queue.TRAIN_CPU, Queue.SCORE), started_at=datetime.now(UTC))
    WorkerRegistry(redis_client(settings), settings.key_prefix).announce(cpu, 60)
    request = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-tiny"}
    on_gpu = "waits for a worker with a GPU: none is running"
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        estimate = client.post("/v1/jobs/estimate", json=request | {"device": "cuda"}).json()
        assert (estimate["workers"], estimate["waits_for"]) == (0, on_gpu)
        waiting = client.post("/v1/jobs", json=request | {"device": "cuda"}).json()
        served = client.post("/v1/jobs", json=request).json()
        assert (waiting["waits_for"], served["waits_for"]) == (on_gpu, None)
        listed = {job["id"]: job["waits_for"] for job in client.get("/v1/jobs").json()["jobs"]}
        assert listed == {waiting["id"]: on_gpu, served["id"]: None}
        assert client.get(f"/v1/jobs/{waiting['id']}").json()["waits_for"] == on_gpu
        with monkeypatch.context() as full:
            Disk(full, total=64 * 2**20, free=2**20)
            listed = {job["id"]: job["waits_for"] for job in client.get("/v1/jobs").json()["jobs"]}
            assert listed == {waiting["id"]: on_gpu, served["id"]: "waits for room on the disk: it is full"}
            assert client.get(f"/v1/jobs/{served['id']}").json()["waits_for"] == listed[served["id"]]
        cancelled = client.post(f"/v1/jobs/{waiting['id']}/cancel").json()
        assert cancelled["waits_for"] is None


def test_a_refused_training_is_queued_when_forced(settings: Settings) -> None:
    presence = WorkerRegistry(redis_client(settings), settings.key_prefix)
    small = WorkerInfo(
        name="w",
        device="cpu",
        queues=(Queue.TRAIN_CPU,),
        memory_bytes=2**40,
        train_memory_bytes=2**20,
        started_at=datetime.now(UTC),
    )
    request = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-tiny"}
    key = {"Idempotency-Key": "one"}
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        unknown = client.post("/v1/jobs", json=request)
        assert (unknown.status_code, unknown.json()["estimate"]["fits"]) == (202, None)
        presence.announce(small, 60)
        refused = client.post("/v1/jobs", json=request, headers=key)
        assert (refused.status_code, refused.json()["type"]) == (422, "out-of-memory-expected")
        assert refused.json()["available_bytes"] == 2**20 < refused.json()["memory_bytes"]
        estimate = client.post("/v1/jobs/estimate", json=request)
        assert (estimate.status_code, estimate.json()["estimate"]["fits"]) == (200, False)
        forced = client.post("/v1/jobs", json=request | {"force": True}, headers=key)
        assert forced.status_code == 202
        assert len(client.get("/v1/jobs").json()["jobs"]) == 2
        (worker,) = client.get("/v1/workers").json()["workers"]
        assert (worker["state"], worker["train_memory_bytes"]) == ("idle", 2**20)
