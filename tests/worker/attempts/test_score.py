"""Bulk scoring with real processes: every image once, whoever dies or helps."""

import os
import shutil
import signal
import threading
from collections import Counter

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Status
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, submit
from snf_worker.runtime.machine import WorkerRegistry
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer
from tests.worker.support import slow_score
from tests.worker.support.helpers import Start, until
from tests.worker.support.scoring import IMAGES, MODEL, await_part, in_background, rows, scoring, unfinished


@pytest.fixture
def slow(store: JobStore, settings: Settings, stopping: threading.Event) -> Supervisor:
    """A supervisor of attempts that take longer to read a part than until their first report."""
    return Supervisor(store, settings, stopping, slow_score.command)


@pytest.mark.usefixtures("digits")
def test_every_image_gets_a_row_and_a_dead_attempt_is_gone_on_with(
    real: Supervisor, slow: Supervisor, store: JobStore, settings: Settings, forked: ForkServer
) -> None:
    whole, _ = store.create(scoring())
    assert real.run(whole.queue) is Outcome.SUCCEEDED
    done = store.get(whole.id)
    assert done.result is not None
    assert (done.result["model"], done.result["images"], done.result["errors"]) == (MODEL, IMAGES, 0)
    assert (done.progress["step"], done.progress["steps"]) == (IMAGES, IMAGES)
    expected = rows(settings, whole)
    assert len({row["path"] for row in expected}) == len(expected) == IMAGES
    assert all(row["log_likelihood"] < 0 and row["error"] is None for row in expected)
    assert not (settings.jobs_dir / whole.id / "parts").exists()

    # The worker died when all that was missing was the record of the success.
    table = settings.jobs_dir / whole.id / "scores.parquet"
    written = table.stat().st_mtime_ns
    again, _ = store.create(scoring())
    shutil.copytree(settings.jobs_dir / whole.id, settings.jobs_dir / again.id)
    shutil.copystat(table, settings.jobs_dir / again.id / "scores.parquet")
    assert real.run(again.queue) is Outcome.SUCCEEDED
    assert store.get(again.id).result == done.result
    assert (settings.jobs_dir / again.id / "scores.parquet").stat().st_mtime_ns == written

    cut, _ = store.create(scoring())
    with unfinished(store, cut):
        thread, outcomes = in_background(slow, cut)
        await_part(store, cut)
        os.kill(forked.pids[str(settings.jobs_dir / cut.id)], signal.SIGKILL)
        thread.join(60)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    assert store.get(cut.id).attempts_without_progress == 0, "its parts are progress"
    assert 0 < len(list((settings.jobs_dir / cut.id / "parts").glob("part-*"))) < IMAGES / 50
    assert real.run(cut.queue) is Outcome.SUCCEEDED
    assert rows(settings, cut) == expected


@pytest.mark.usefixtures("forked", "digits")
def test_it_pauses_at_once_and_another_try_takes_over_the_parts(
    real: Supervisor, slow: Supervisor, store: JobStore, settings: Settings
) -> None:
    job, _ = store.create(scoring())
    with unfinished(store, job):
        thread, outcomes = in_background(slow, job)
        await_part(store, job)
        store.request_cancel(job.id)
        thread.join(60)
    assert outcomes == [Outcome.CANCELLED]
    kept = {path.name for path in (settings.jobs_dir / job.id / "parts").glob("part-*")}
    assert 0 < len(kept) < IMAGES / 50
    again, _ = store.create(scoring(retry_of=job.id))
    assert real.run(again.queue) is Outcome.SUCCEEDED
    log = (settings.jobs_dir / again.id / "events.jsonl").read_text()
    assert f'"step":{50 * len(kept)}' in log.splitlines()[1], "it starts with the parts of the first"
    assert len(rows(settings, again)) == IMAGES


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("digits")
def test_two_workers_share_a_job_and_one_that_is_killed_loses_and_doubles_nothing(
    settings: Settings, store: JobStore, start: Start
) -> None:
    """Their parts take longer than the first report of an attempt."""
    workers = [start("tests.worker.support.slow_worker") for _ in range(2)]
    registry = WorkerRegistry(redis_client(settings), settings.key_prefix)
    until(lambda: len(registry.workers()) == 2, 60)
    job = submit(store, make_celery(settings), scoring(parameters={"images_per_part": 50}))
    with unfinished(store, job):
        # Both have it in hand: one as its attempt, the other to help.
        until(lambda: [worker.job for worker in registry.workers()] == [job.id, job.id], 60)
        await_part(store, job)
        owner = store.get(job.id).worker or ""
        victim = next(worker for worker in workers if owner.endswith(f":{worker.pid}"))
        os.kill(victim.pid, signal.SIGKILL)
    until(lambda: store.get(job.id).status is Status.SUCCEEDED, 120)
    counts = Counter(row["path"] for row in rows(settings, job))
    assert len(counts) == IMAGES
    assert set(counts.values()) == {1}
