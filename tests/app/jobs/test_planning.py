"""Jobs that cannot succeed are refused before they are queued."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from snf_app.http.errors import Problem
from snf_app.jobs.service import JobPlan, JobService, require_feasible
from snf_app.main import create_app
from snf_client.schemas.jobs import Estimate, JobRequest
from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import DatasetStore, summarize
from snf_models.features.backbones import LITE0, BackboneStore
from snf_models.pipeline.presets import find_preset
from snf_models.registry.registry import Registry
from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown
from snf_worker.jobs.measured import MeasuredTraining, MeasuredTrainings, kind_of_training
from snf_worker.jobs.record import Queue
from snf_worker.runtime.machine import WorkerInfo, WorkerRegistry
from snf_worker.settings import Settings
from tests.support.disks import Disk
from tests.support.service_settings import client_of, service_settings

pytestmark = pytest.mark.usefixtures("no_shipped_models")


MEASURED = MeasuredTraining(step_seconds=0.1, image_seconds=0.01, images=600, memory_bytes=2**29)


def _trainings(measured: MeasuredTraining | None = None) -> MeasuredTrainings:
    return cast(MeasuredTrainings, SimpleNamespace(latest=lambda _kind: measured))


def _running(*workers: WorkerInfo) -> WorkerRegistry:
    served = frozenset(queue for worker in workers for queue in worker.queues)
    return cast(WorkerRegistry, SimpleNamespace(workers=lambda: list(workers), served=lambda: served))


def _worker(device: str, *queues: Queue, **more: Any) -> WorkerInfo:
    return WorkerInfo(name="w", device=device, queues=queues, started_at=datetime.now(UTC), **more)


def _service(home: Path, workers: WorkerRegistry, trainings: MeasuredTrainings) -> JobService:
    settings, unused = Settings(home=home), cast(Any, None)
    registry, datasets = Registry(settings.registry_dir), DatasetStore(settings.datasets_dir)
    return JobService(settings, registry, datasets, unused, unused, workers, trainings)


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    settings = service_settings(tmp_path, data_dir=tmp_path)
    with client_of(settings) as client:
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
    worker = _worker(device, queue, memory_bytes=memory, train_memory_bytes=of_each)
    datasets = DatasetStore(tmp_path / "datasets")
    request = JobRequest(
        type="train", dataset="mnist-mini", model="m", preset="snf-glow-tiny", parameters={"max_steps": 50}
    )
    of_same = replace_images(MEASURED, summarize("mnist-mini", None, datasets, TrainingConfig()).images)

    def estimate(measured: MeasuredTraining | None, **parameters: float) -> Estimate:
        changed = request.model_copy(update={"parameters": request.parameters | parameters})
        plan = _service(tmp_path, _running(worker), _trainings(measured)).plan(changed)
        assert (plan.queue, plan.workers) == (queue, 1)
        assert plan.estimate is not None
        return plan.estimate

    found = estimate(of_same)
    assert (found.fits, found.memory_bytes) == (fits, MEASURED.memory_bytes)
    assert found.seconds == pytest.approx(50 * 0.1 + of_same.images * 0.01)
    # Of other numbers of images a training shows only that fewer of them fit, and more do not.
    assert estimate(replace_images(MEASURED, of_same.images - 1)).fits in {False, None}
    assert estimate(replace_images(MEASURED, of_same.images + 1)).fits in {True, None}
    unknown = estimate(None)
    assert (unknown.seconds, unknown.memory_bytes, unknown.fits) == (None, None, None)
    assert [estimate(measured, max_minutes=0.05).seconds for measured in (of_same, None)] == [3.0, 3.0]


def replace_images(measured: MeasuredTraining, images: int) -> MeasuredTraining:
    return measured.model_copy(update={"images": images})


@pytest.mark.parametrize("preset", ["snf-features", "snf-hybrid"])
def test_a_backbone_that_is_not_here_is_named(tmp_path: Path, preset: str) -> None:
    settings = service_settings(tmp_path)
    request = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": preset}
    with client_of(settings) as client:
        answer = client.post("/v1/jobs", json=request | {"parameters": {"backbone": "dinov2"}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/body/parameters/backbone"
    assert "snf backbones add dinov2" in error["detail"]


def test_a_fit_in_closed_form_waits_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneStore, "find", lambda _store, _name: LITE0)
    gpu = _worker("cuda:0", Queue.TRAIN_GPU, memory_bytes=2**40)
    service = _service(tmp_path, _running(gpu), _trainings())

    def request(preset: str, device: str) -> JobRequest:
        return JobRequest.model_validate(
            {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": preset, "device": device}
        )

    assert service.plan(request("snf-features", "auto")).queue is Queue.TRAIN_CPU
    assert service.plan(request("snf-hybrid", "auto")).queue is Queue.TRAIN_GPU

    def down() -> list[WorkerInfo]:
        raise BrokerDown

    unknown = cast(WorkerRegistry, SimpleNamespace(workers=down))
    with pytest.raises(Problem, match="on a CPU"):  # said before the workers are asked for
        replace(service, workers=unknown).plan(request("snf-features", "cuda"))


def test_what_an_estimate_rules_out_is_refused_with_the_figures() -> None:
    memory = Estimate(seconds=1.0, memory_bytes=3000, fits=False, available_bytes=2000)
    long = Estimate(seconds=86_400.0 * 15, memory_bytes=1, fits=True)
    plan = JobPlan("m", Queue.TRAIN_CPU, 1, memory)
    for estimate, slug, figures in (
        (memory, "out-of-memory-expected", {"memory_bytes": 3000, "available_bytes": 2000}),
        (long, "too-long-expected", {"seconds": 86_400.0 * 15, "available_seconds": 86_400 * 14}),
    ):
        with pytest.raises(Problem) as refused:
            require_feasible(replace(plan, estimate=estimate))
        assert (refused.value.status, refused.value.slug, refused.value.extensions) == (422, slug, figures)
        assert '"force": true' in refused.value.detail
    assert "expected to take 15 days; expected at most 14 days" in refused.value.detail
    for fits in (True, None):
        require_feasible(replace(plan, estimate=memory.model_copy(update={"fits": fits})))
    require_feasible(replace(plan, estimate=Estimate(seconds=None, memory_bytes=None, fits=None)))
    require_feasible(replace(plan, estimate=None))


def test_a_queued_job_says_what_it_waits_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = _worker("cpu", Queue.TRAIN_CPU, Queue.SCORE)
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
    small = _worker("cpu", Queue.TRAIN_CPU, memory_bytes=2**40, train_memory_bytes=2**20)
    request = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-tiny"}
    key = {"Idempotency-Key": "one"}
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        unknown = client.post("/v1/jobs", json=request)
        assert (unknown.status_code, unknown.json()["estimate"]["fits"]) == (202, None)
        presence.announce(small, 60)
        config = find_preset("snf-glow-tiny").config({})
        kind = kind_of_training(find_preset("snf-glow-tiny").architecture_for((1, 28, 28), config), config, "cpu")
        trainings = MeasuredTrainings(redis_client(settings), settings.key_prefix)
        trainings.store(kind, MEASURED)
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
