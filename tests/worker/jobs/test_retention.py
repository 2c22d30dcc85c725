"""What is kept of jobs that are over."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from snf_worker.errors import JobConflict, JobNotFound
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.reconciler import remove_job
from snf_worker.settings import Settings
from tests.worker.support.helpers import make_reconciler, take

Add = Callable[..., Job]
ENDS = (Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.CANCELLED)


@pytest.fixture
def forgetful(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_days": 0.2 / 86400})


def ended(store: JobStore, settings: Settings, add: Add, status: Status) -> Job:
    job = add()
    store.finish(job.id, take(store, job, lease_s=30), status, {})
    (settings.jobs_dir / job.id / "checkpoints").mkdir(parents=True)
    return store.get(job.id)


def test_old_jobs_go_with_their_folders_and_others_stay(store: JobStore, forgetful: Settings, add: Add) -> None:
    old = [ended(store, forgetful, add, status) for status in ENDS]
    queued, running = add(), add()
    take(store, running, lease_s=600)
    for job in (queued, running):
        (forgetful.jobs_dir / job.id).mkdir()
    time.sleep(0.3)
    sweeper = make_reconciler(store, forgetful)
    assert sweeper.sweep() == len(ENDS)
    for job in old:
        assert not (forgetful.jobs_dir / job.id).exists()
        with pytest.raises(JobNotFound):
            store.get(job.id)
    assert [job.id for job in store.list().jobs] == [running.id, queued.id]
    assert [job.id for job in store.list(type="train").jobs] == [running.id, queued.id]
    assert [store.count(status) for status in ENDS] == [0] * len(ENDS)
    assert (forgetful.jobs_dir / queued.id).exists()
    assert sweeper.sweep() == 0


def test_a_removal_spares_what_is_being_read_and_completes_an_interrupted_one(
    store: JobStore, settings: Settings, add: Add
) -> None:
    job = ended(store, settings, add, Status.SUCCEEDED)
    folder = settings.jobs_dir / job.id
    (folder / "scores.parquet").write_bytes(b"scores")
    with (folder / "scores.parquet").open("rb") as download:
        folder.rename(folder.with_name(f".{job.id}.removed"))  # where an earlier removal was interrupted
        folder.mkdir()
        (folder / "log").write_text("of a worker that was late")
        remove_job(store, settings, job.id)
        assert list(settings.jobs_dir.iterdir()) == []
        assert download.read() == b"scores"
    for call in (store.get, partial(remove_job, store, settings)):
        with pytest.raises(JobNotFound):
            call(job.id)


def test_a_sweep_completes_an_interrupted_removal(store: JobStore, settings: Settings, add: Add) -> None:
    job = ended(store, settings, add, Status.SUCCEEDED)
    store.remove(job.id)  # and then the process died
    assert make_reconciler(store, settings).sweep() == 0
    assert (list(settings.jobs_dir.iterdir()), store.removed()) == ([], [])


def test_two_removals_at_once_and_a_sweep_answer_no_error(
    store: JobStore, settings: Settings, forgetful: Settings, add: Add
) -> None:
    jobs = [ended(store, settings, add, Status.SUCCEEDED) for _ in range(20)]
    for job in jobs:
        for number in range(20):
            (settings.jobs_dir / job.id / "checkpoints" / str(number)).touch()
    time.sleep(0.3)
    answers: list[str] = []

    def remove(job_id: str) -> None:
        try:
            remove_job(store, settings, job_id)
            answers.append(job_id)
        except JobNotFound:
            pass

    with ThreadPoolExecutor(3) as pool:
        swept = pool.submit(make_reconciler(store, forgetful).sweep)
        for _ in pool.map(remove, [job.id for job in jobs for _ in range(2)]):
            pass
    assert len(answers) + swept.result() == len(set(answers)) + swept.result() == len(jobs)
    make_reconciler(store, settings).sweep()
    assert (list(settings.jobs_dir.iterdir()), store.removed()) == ([], [])


def test_a_job_whose_retry_is_paused_is_kept(store: JobStore, forgetful: Settings, add: Add) -> None:
    job = ended(store, forgetful, add, Status.FAILED)
    retry = add(retry_of=job.id)
    store.request_pause(retry.id)
    time.sleep(0.3)
    assert make_reconciler(store, forgetful).sweep() == 0
    assert (forgetful.jobs_dir / job.id / "checkpoints").exists()
    store.request_cancel(retry.id)
    time.sleep(0.3)
    assert make_reconciler(store, forgetful).sweep() == 2


def test_jobs_are_kept_for_the_time_of_the_setting(store: JobStore, settings: Settings, add: Add) -> None:
    job = ended(store, settings, add, Status.FAILED)
    assert make_reconciler(store, settings).sweep() == 0
    assert store.get(job.id) == job
    assert (settings.jobs_dir / job.id / "checkpoints").exists(), "a failed job's checkpoints may still be wanted"


def test_a_job_that_is_not_over_is_never_removed(store: JobStore, add: Add) -> None:
    job = add()
    with pytest.raises(JobConflict):
        store.remove(job.id)
    assert store.get(job.id) == job
