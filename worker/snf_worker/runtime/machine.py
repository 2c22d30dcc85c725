"""Identity and memory of this machine, the memory limit of a training process, and the registry of running workers."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import redis
from pydantic import BaseModel, ConfigDict

from snf_worker.jobs.record import DeviceKind, Queue
from snf_worker.settings import Settings

AUTO, CPU, CUDA = "auto", "cpu", "cuda"


def find_devices(wanted: Sequence[str]) -> list[str]:
    """Return the names of the wanted devices, with ``auto`` replaced by all GPUs and the CPU.

    GPUs are the NVIDIA GPUs that ``nvidia-smi`` lists.

    >>> find_devices(["cuda:1", "cpu", "cpu"])
    ['cuda:1', 'cpu']
    """
    devices: list[str] = []
    for name in wanted:
        devices += [*_gpus(), CPU] if name == AUTO else [name]
    return list(dict.fromkeys(devices))


def kind_of(device: str) -> DeviceKind:
    return "cuda" if device.startswith(CUDA) else "cpu"


def queues_of(device: str) -> list[Queue]:
    """Return the queues that a device serves: the training queue for its kind of device, and the scoring queue."""
    return [Queue.TRAIN_GPU if kind_of(device) == CUDA else Queue.TRAIN_CPU, Queue.SCORE]


def process_name(device: str) -> str:
    """Return the name of a device's worker process for messages and log files, such as ``worker-cuda-0``.

    >>> process_name("cpu"), process_name("cuda:0")
    ('worker', 'worker-cuda-0')
    """
    return "worker" if device == CPU else f"worker-{device.replace(':', '-')}"


def variables(device: str) -> dict[str, str]:
    """Return the ``CUDA_VISIBLE_DEVICES`` that lets a child process use only this GPU, or none for ``cpu``."""
    return {"CUDA_VISIBLE_DEVICES": device.partition(":")[2] if kind_of(device) == CUDA else ""}


def _gpus() -> list[str]:
    query = shutil.which("nvidia-smi")
    if query is None:
        return []
    try:
        answer = subprocess.run(
            [query, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return []  # a driver that does not answer has no usable GPU
    return [f"cuda:{index.strip()}" for index in answer.stdout.split() if index.strip().isdigit()]


_SHARE = 0.8  # share of the memory for all trainings of this machine; service, broker and workers need the rest
_SMALLEST = 2 * 2**30  # smallest limit in bytes: PyTorch's libraries and threads alone come close to it
_RESERVE = 0.1  # share of the memory that an attempt leaves of what is free when it starts


def machine_id() -> str | None:
    """Return a text that changes at each start of this machine or container, or None on systems other than Linux."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The containers of a machine share its kernel.
        return f"{start} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def memory_of_this_machine(
    groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the bytes of memory of this machine, or of its container if smaller; None if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return min([total, *_limits(groups, membership)])


def training_memory(settings: Settings, device: str, workers: int, memory: int | None) -> int | None:
    """Return a training's memory limit in bytes, or None on a GPU, whose driver reserves terabytes of addresses."""
    if settings.train_memory_bytes is not None:
        return settings.train_memory_bytes
    if memory is None or device != CPU:
        return None
    return max(_SMALLEST, int(_SHARE * memory) // workers)


def attempt_memory(settings: Settings, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the limit in bytes of an attempt that starts now: the worker's, or less if memory is taken."""
    if settings.train_memory_bytes is None:
        return None
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:  # another system than Linux
        return settings.train_memory_bytes
    sizes = {name: 1024 * int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    free = int(sizes["MemAvailable"] - _RESERVE * sizes["MemTotal"])
    return min(settings.train_memory_bytes, max(_SMALLEST, free))


def _limits(groups: Path, membership: Path) -> Iterator[int]:
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = groups / "memory", "memory.limit_in_bytes"  # control groups version 1
        else:
            continue
        group = base / path.lstrip("/")
        # The limits of all enclosing groups apply, too. In a container the path may be that of the host.
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdigit():
                yield int(text)


HOST_VARIABLE = "SNF_WORKER_HOST"  # environment variable in which a launcher passes its host name to its workers
HOST = os.environ.get(HOST_VARIABLE) or socket.gethostname()
"""Host name in the names of workers: that of the launcher's start, because the name of a machine may change."""


def worker_name(pid: int | None = None) -> str:
    """Return the name ``host:pid`` of a worker process on this host, by default of the current one."""
    return f"{HOST}:{os.getpid() if pid is None else pid}"


class WorkerState(StrEnum):
    """A worker is idle, busy with a job, or does not receive the messages that wait for it."""

    IDLE = "idle"
    BUSY = "busy"
    NOT_RECEIVING = "not-receiving"  # messages wait, but none arrives


class WorkerInfo(BaseModel):
    """Entry of a running worker process in the worker registry."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str  # host and process id
    machine: str | None = None  # machine or container, None if unknown: see machine_id
    device: str  # that runs the jobs: cpu or cuda:N
    queues: tuple[Queue, ...]  # that the worker serves
    memory_bytes: int | None = None  # of the machine or container
    train_memory_bytes: int | None = None  # largest memory of a training process
    started_at: datetime
    state: WorkerState = WorkerState.IDLE
    job: str | None = None  # id of the current job


class WorkerRegistry:
    """Registry of running workers in Redis. An entry expires unless its worker renews it."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client: Any = client
        self._index = f"{prefix}workers"
        self._prefix = f"{prefix}worker:"

    def announce(self, worker: WorkerInfo, life_s: float) -> None:
        pipe = self._client.pipeline()
        pipe.sadd(self._index, worker.name)
        pipe.set(self._prefix + worker.name, worker.model_dump_json(), px=int(life_s * 1000))
        pipe.execute()

    def withdraw(self, name: str) -> None:
        pipe = self._client.pipeline()
        pipe.srem(self._index, name)
        pipe.delete(self._prefix + name)
        pipe.execute()

    def served(self) -> frozenset[Queue]:
        return frozenset(queue for worker in self.workers() for queue in worker.queues)

    def workers(self) -> list[WorkerInfo]:
        names = sorted(self._client.smembers(self._index))
        if not names:
            return []
        entries = self._client.mget([self._prefix + name for name in names])
        gone = [name for name, entry in zip(names, entries, strict=True) if entry is None]
        if gone:
            self._client.srem(self._index, *gone)
        return [WorkerInfo.model_validate_json(entry) for entry in entries if entry is not None]
