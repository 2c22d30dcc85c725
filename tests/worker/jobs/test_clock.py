"""The clock of the job store is set back or forward: no job is lost, doubled or delayed by it.

The clock of a real server cannot be set, so its times are moved against it instead.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore, Shards
from snf_worker.settings import Settings
from tests.worker.support.helpers import make_reconciler, take

Add = Callable[..., Job]
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
