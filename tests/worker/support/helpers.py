"""Shared by tests of the worker: fake commands, programs, waiting, and checks of processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snf_client.schemas.base import JobType
from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job, Status, new_job_id
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery
from snf_worker.runtime.machine import WorkerRegistry
from snf_worker.runtime.reconciler import Reconciler
from snf_worker.settings import Settings
from tests.support.fork_server import Process
from tests.support.unmeasured import MEASURED

Start = Callable[..., Process]
Submit = Callable[..., Job]
FAKE_TRAINER = Path(__file__).with_name("fake_trainer.py")


def fake_command(folder: Path, _type: JobType) -> list[str]:
    # A fake needs no coverage, which takes as long as the rest of its start.
    return ["env", "-u", MEASURED, sys.executable, str(FAKE_TRAINER), str(folder)]


def run_program(settings: Settings, program: str) -> str:
    """What a Python program prints that has the settings in its environment."""
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings.environment()},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return answer.stdout.strip()


def until(condition: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first true answer of `condition`; fails the test where there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(every)
    pytest.fail(f"still not true after {seconds} s: {condition}")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def make_reconciler(store: JobStore, settings: Settings) -> Reconciler:
    registry = WorkerRegistry(redis_client(settings), settings.key_prefix)
    return Reconciler(store, make_celery(settings), settings, registry)


def new_job(behave: str = "succeed", **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "id": new_job_id(),
        "model": "digits",
        "dataset": "mnist-mini",
        "preset": "snf-glow-tiny",
        "parameters": {"behave": behave},
        "created_at": datetime.now(UTC),
    }
    return Job(**(fields | changes))


def take(store: JobStore, job: Job, worker: str | None = None, lease_s: float = 5) -> int:
    """Take a job whatever waits before it, by a worker of its own; return the attempt, 0 if it does not wait."""
    others = [other.id for other in store.list(status=Status.QUEUED, limit=1000).jobs if other.id != job.id]
    taken = store.take(job.queue, worker or f"worker of {job.id}", lease_s, others)
    return 0 if taken is None else taken[1]


def reaches(store: JobStore, job: Job, status: Status, seconds: float = 60) -> Job:
    until(lambda: store.get(job.id).status is status, seconds)
    return store.get(job.id)


def trainer_pids(settings: Settings, job: Job) -> list[int]:
    return [int(pid) for pid in (settings.jobs_dir / job.id / "pids").read_text().split()]
