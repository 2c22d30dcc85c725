"""Devices of a machine, the queues they serve, and a worker process for each of them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job, Queue, Status
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, wake
from snf_worker.runtime.launcher import run_workers, stop_all, worker_processes
from snf_worker.runtime.machine import (
    HOST,
    HOST_VARIABLE,
    WorkerRegistry,
    attempt_memory,
    find_devices,
    memory_of_this_machine,
    queues_of,
    training_memory,
    variables,
)
from snf_worker.runtime.main import queues_to_serve
from snf_worker.settings import Settings
from tests.support.fork_server import fork_server, forked_by
from tests.worker.support.helpers import run_program, until


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver names two GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_auto_means_every_gpu_and_the_cpu(two_gpus: None) -> None:
    assert find_devices(["auto"]) == ["cuda:0", "cuda:1", "cpu"]
    assert find_devices(["cpu"]) == ["cpu"]


def test_a_machine_without_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_devices(["auto"]) == ["cpu"]
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\nexit 9\n")
    broken.chmod(0o755)
    assert find_devices(["auto"]) == ["cpu"]


def test_a_process_sees_its_device_alone() -> None:
    assert variables("cuda:3") == {"CUDA_VISIBLE_DEVICES": "3"}
    assert variables("cpu") == {"CUDA_VISIBLE_DEVICES": ""}


def test_queues_follow_the_device_and_the_settings(settings: Settings) -> None:
    assert queues_of("cuda:0") == [Queue.TRAIN_GPU, Queue.SCORE]
    assert queues_to_serve(settings, "cpu") == [Queue.TRAIN_CPU, Queue.SCORE]
    only = settings.model_copy(update={"queues": (Queue.SCORE,)})
    assert queues_to_serve(only, "cpu") == [Queue.SCORE]
    gpu_work = settings.model_copy(update={"queues": (Queue.TRAIN_GPU,), "devices": ("cpu", "cuda:1")})
    assert [(part.name, part.settings.devices) for part in worker_processes(gpu_work)] == [
        ("worker-cuda-1", ("cuda:1",))
    ]
    with pytest.raises(ValueError, match="none of the devices cpu can serve train-gpu"):
        worker_processes(gpu_work.model_copy(update={"devices": ("cpu",)}))


def test_settings_are_read_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_DEVICES", "cuda:0, cpu")
    monkeypatch.setenv("SNF_QUEUES", "train-gpu,score")
    found = Settings()
    assert (found.devices, found.queues) == (("cuda:0", "cpu"), (Queue.TRAIN_GPU, Queue.SCORE))
    assert (found.environment()["SNF_DEVICES"], found.environment()["SNF_QUEUES"]) == ("cuda:0,cpu", "train-gpu,score")
    monkeypatch.setenv("SNF_DEVICES", "tpu")
    with pytest.raises(ValueError, match="devices"):
        Settings()


@pytest.mark.parametrize(
    ("devices", "beside_service", "threads"),
    [(("cpu",), False, "8"), (("cpu",), True, "4"), (("cpu", "cuda:0"), False, "4"), (("cpu", "cuda:0"), True, "2")],
)
def test_workers_share_the_threads_that_the_service_leaves(
    devices: tuple[str, ...],
    beside_service: bool,
    threads: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    parts = worker_processes(settings.model_copy(update={"devices": devices, "beside_service": beside_service}))
    assert {part.variables["OMP_NUM_THREADS"] for part in parts} == {threads}


def test_a_single_worker_hands_its_threads_to_its_jobs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv(HOST_VARIABLE, HOST)
    monkeypatch.setattr("snf_worker.runtime.launcher.configure_logging", lambda *_, **__: None)
    monkeypatch.setattr("snf_worker.runtime.main.run_worker", lambda _: int(os.environ["OMP_NUM_THREADS"]))
    assert run_workers(settings.model_copy(update={"devices": ("cpu",), "beside_service": True})) == 4


def test_each_device_runs_one_job_of_its_queue(settings: Settings, store: JobStore, add: Callable[..., Job]) -> None:
    both = settings.model_copy(update={"devices": ("cuda:0", "cpu")})
    parts = worker_processes(both, "tests.worker.support.fake_worker")
    with forked_by(fork_server(), "snf_worker.process_setup"):
        for part in parts:
            part.start()
    try:
        on_cpu, on_gpu = add("wait"), add("wait", queue=Queue.TRAIN_GPU)
        waiting = add("succeed", queue=Queue.TRAIN_GPU)
        celery = make_celery(settings)
        for job in (on_cpu, on_gpu, waiting):
            wake(celery, job.queue)
        for job in (on_cpu, on_gpu):
            until(lambda job=job: store.get(job.id).status is Status.RUNNING)
        workers = {
            worker.device: worker
            for worker in until(WorkerRegistry(redis_client(settings), settings.key_prefix).workers)
        }
        assert {device: worker.queues for device, worker in workers.items()} == {
            "cpu": (Queue.TRAIN_CPU, Queue.SCORE),
            "cuda:0": (Queue.TRAIN_GPU, Queue.SCORE),
        }
        folder = settings.jobs_dir
        assert '"device": "cuda"' in (folder / on_gpu.id / "job.json").read_text()
        assert '"device": "cpu"' in (folder / on_cpu.id / "job.json").read_text()
        assert store.get(waiting.id).status is Status.QUEUED
        store.request_cancel(on_gpu.id)
        until(lambda: store.get(waiting.id).status is Status.SUCCEEDED)
        assert store.get(on_cpu.id).status is Status.RUNNING
    finally:
        stop_all(parts, 0.0)


GIB = 2**30


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_the_smallest_limit_of_nested_groups_counts(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/outer/inner\n")
    inner = tmp_path / "groups/outer/inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("104857600\n")
    (inner.parent.parent / "memory.max").write_text("209715200\n")
    assert memory_of_this_machine(tmp_path / "groups", membership) == 104857600


def test_version_1_of_control_groups_and_a_path_of_the_host(tmp_path: Path, membership: Path) -> None:
    membership.write_text("5:cpu,cpuacct:/docker/a1\n4:memory:/docker/a1\n0::/docker/a1\n")
    group = tmp_path / "groups/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("104857600\n")
    assert memory_of_this_machine(tmp_path / "groups", membership) == 104857600


def test_without_control_groups_it_is_the_memory_of_the_machine(tmp_path: Path, membership: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_of_this_machine(tmp_path / "groups", membership) == total
    membership.write_text("4:memory:/\n")
    unlimited = tmp_path / "groups/memory"
    unlimited.mkdir(parents=True)
    (unlimited / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_of_this_machine(tmp_path / "groups", membership) == total


@pytest.mark.parametrize(
    ("changes", "device", "workers", "memory", "limit"),
    [
        ({}, "cpu", 1, 10 * GIB, 8 * GIB),
        ({}, "cpu", 2, 10 * GIB, 4 * GIB),
        ({}, "cpu", 1, GIB, 2 * GIB),
        ({}, "cuda:0", 1, 10 * GIB, None),
        ({}, "cpu", 1, None, None),
        ({"train_memory_bytes": 3 * GIB}, "cuda:0", 4, 10 * GIB, 3 * GIB),
    ],
)
def test_the_share_of_a_training(
    tmp_path: Path, changes: dict[str, int], device: str, workers: int, memory: int | None, limit: int | None
) -> None:
    assert training_memory(Settings(home=tmp_path, **changes), device, workers, memory) == limit


@pytest.mark.parametrize(
    ("own", "free", "limit"),
    [(8, 15, 8), (8, 6, 4), (8, 3, 2), (1, 3, 1), (None, 6, None)],
    ids=["its own", "what is free", "the smallest", "smaller", "none"],
)
def test_an_attempt_takes_no_memory_of_others(tmp_path: Path, own: int | None, free: int, limit: int | None) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {20 * 2**20} kB\nMemAvailable: {free * 2**20} kB\nHugePages_Total:       0\n")
    settings = Settings(home=tmp_path, train_memory_bytes=None if own is None else own * GIB)
    assert attempt_memory(settings, meminfo) == (None if limit is None else limit * GIB)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone has such a score")
def test_the_kernel_ends_a_process_of_a_job_and_its_children_first(settings: Settings) -> None:
    program = (
        "import subprocess\n"
        "from snf_worker.attempts.run_attempt import prepare_process\n"
        "prepare_process()\n"
        "print(open('/proc/self/oom_score_adj').read(), end='', flush=True)\n"
        "subprocess.run(['cat', '/proc/self/oom_score_adj'], check=True)"
    )
    assert run_program(settings, program).split() == ["900", "900"]
