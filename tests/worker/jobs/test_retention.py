"""What is kept of jobs that are over."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.errors import JobNotFound
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore, Shards
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


HOUR_MS = 3_600_000


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(settings: Settings, served: None) -> Any:
    return redis_client(settings)


def shift(client: Any, settings: Settings, milliseconds: int) -> None:
    """Moves all times of the store, as if the clock had been set by that much in the other direction."""
    prefix = settings.key_prefix
    for index in ("leases", "finished"):
        for job_id, score in client.zrange(prefix + index, 0, -1, withscores=True):
            client.zadd(prefix + index, {job_id: score + milliseconds})
    for key in client.keys(f"{prefix}job:*"):
        if client.hexists(key, "lease_expires"):
            client.hincrby(key, "lease_expires", milliseconds)


def test_after_the_clock_was_set_back_jobs_wait_in_their_order(
    store: JobStore, client: Any, settings: Settings, add: Add
) -> None:
    take(store, add(), lease_s=30)
    before = add()
    shift(client, settings, HOUR_MS)
    assert store.cap_times() == 1, "a lease"
    after = add()
    assert [store.position(job) for job in (before, after)] == [0, 1]
    assert store.cap_times() == 0


def test_after_the_clock_was_set_back_a_lease_ends_in_its_time(
    store: JobStore, client: Any, settings: Settings, add: Add
) -> None:
    vanished, alive = add(), add()
    take(store, vanished, lease_s=0.2)
    attempt = take(store, alive, lease_s=30)
    shift(client, settings, HOUR_MS)
    assert store.cap_times() == 2
    time.sleep(0.3)
    assert store.expired_leases() == [vanished.id]
    assert store.expire(vanished.id, 3) == "queued"
    assert store.expire(alive.id, 3) == "kept"
    store.renew(alive.id, attempt, 30)


def test_after_the_clock_was_set_back_a_claimed_shard_is_free_again(client: Any, settings: Settings) -> None:
    shards = Shards(client, settings.key_prefix, "a-job")
    shards.offer([1])
    assert shards.claim(30) is not None
    assert shards.claim(30) is None
    client.zincrby(f"{settings.key_prefix}shards:a-job", HOUR_MS, "1")
    assert shards.claim(30) is not None
    assert shards.claim(30) is None


def test_after_the_clock_was_set_forward_living_workers_keep_their_jobs(
    store: JobStore, client: Any, settings: Settings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add()
    attempt = take(store, job, lease_s=30)
    store.renew(job.id, attempt, 30, {"progress": {"step": 1}})
    shift(client, settings, -HOUR_MS)
    sweeper = make_reconciler(store, settings)
    with monkeypatch.context() as patch:
        clock = store.clock_ms
        patch.setattr(store, "clock_ms", lambda: clock() - HOUR_MS)
        assert sweeper.sweep() == 0
    assert store.expired_leases() == [job.id], "now the clock is an hour later"
    assert sweeper.sweep() == 0
    assert sweeper.sweep() == 0, "there is time for two heartbeats"
    store.renew(job.id, attempt, 30)
    time.sleep(2 * settings.heartbeat_seconds)
    assert sweeper.sweep() == 0
    assert store.get(job.id).status is Status.RUNNING
    shift(client, settings, -HOUR_MS)
    assert sweeper.sweep() == 1, "a worker that does not renew its lease loses its job all the same"


def test_after_the_clock_was_set_forward_and_after_a_start_results_are_kept_for_an_hour(
    store: JobStore, settings: Settings, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add()
    store.finish(job.id, take(store, job, lease_s=30), Status.SUCCEEDED, {})
    sweeper = make_reconciler(store, settings)
    assert sweeper.sweep() == 0
    clock = store.clock_ms
    monkeypatch.setattr(store, "clock_ms", lambda: clock() + 40 * 24 * HOUR_MS)
    assert [sweeper.sweep() for _ in range(3)] == [0, 0, 0]
    started = make_reconciler(store, settings)
    started.start()
    started.stop()
    assert started.sweep() == 0
    assert store.get(job.id).status is Status.SUCCEEDED
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 3601)
    monkeypatch.setattr(store, "clock_ms", lambda: clock() + 40 * 24 * HOUR_MS + 3_601_000)
    assert sweeper.sweep() == 1


@pytest.fixture
def shards(settings: Settings, served: None) -> Shards:
    return Shards(redis_client(settings), settings.key_prefix, "a-job")


def test_every_shard_goes_to_one_process(shards: Shards, settings: Settings) -> None:
    shards.offer(range(40))
    taken: list[int] = []

    def work() -> None:
        mine = Shards(redis_client(settings), settings.key_prefix, "a-job")
        while claim := mine.claim(30):
            taken.append(claim[0])
            mine.done(claim[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(40))
    assert shards.unfinished() == []


def test_a_claim_that_ends_is_taken_over_and_its_token_is_worth_nothing(shards: Shards) -> None:
    shards.offer([7])
    first = shards.claim(0.05)
    assert first is not None
    assert shards.claim(30) is None
    time.sleep(0.1)
    second = shards.claim(30)
    assert second is not None
    assert second[0] == first[0] == 7
    assert shards.renew(7, first[1], 30) is None
    assert shards.renew(7, second[1], 30) is not None


def test_a_renewed_claim_lasts_and_a_released_one_is_free_at_once(shards: Shards) -> None:
    shards.offer([1])
    claim = shards.claim(0.1)
    assert claim is not None
    token = shards.renew(1, claim[1], 30)
    assert token is not None
    time.sleep(0.15)
    assert shards.claim(30) is None
    shards.release(1, claim[1])
    assert shards.claim(30) is None, "an old token releases nothing"
    shards.release(1, token)
    assert shards.claim(30) is not None
    shards.done(1)
    assert shards.renew(1, token, 30) is None, "another process was quicker"


def test_offering_again_frees_no_claim(shards: Shards) -> None:
    shards.offer([1, 2])
    assert shards.claim(30) is not None
    shards.offer([1, 2])
    assert sorted(shards.unfinished()) == [1, 2]
    assert shards.claim(30) is not None
    assert shards.claim(30) is None
    shards.forget()
    assert shards.unfinished() == []
