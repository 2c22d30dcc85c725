"""Shared by tests of bulk scoring: jobs, their rows, and attempts in the background."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow import parquet

from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job, until

MODEL = "digits:1"
IMAGES = 600


def scoring(**changes: Any) -> Job:
    fields = {"type": "score", "queue": Queue.SCORE, "model": MODEL, "parameters": {"images_per_part": 50}}
    return new_job(**fields | changes)


def rows(settings: Settings, job: Job) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(settings.jobs_dir / job.id / "scores.parquet").to_pylist()
    return found


def in_background(supervisor: Supervisor, job: Job) -> tuple[threading.Thread, list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(supervisor.run(job.queue)), daemon=True)
    thread.start()
    return thread, outcomes


def await_part(store: JobStore, job: Job) -> None:
    until(lambda: store.get(job.id).checkpoint_step, 60)


@contextmanager
def unfinished(store: JobStore, job: Job) -> Iterator[None]:
    """As long as another holds one of its shards, a job cannot be over, however fast the machine."""
    shards = store.shards(job.id)
    shards.offer([0])
    held = shards.claim(3600)
    assert held is not None
    try:
        yield
    finally:
        shards.release(*held)
