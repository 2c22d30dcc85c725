"""Outages of the broker under a worker, and a worker that does not receive messages: real processes and brokers."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.record import Status
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.launcher import check_workers
from snf_worker.runtime.machine import WorkerInfo, WorkerRegistry, WorkerState
from snf_worker.runtime.main import NOT_RECEIVING
from snf_worker.settings import Settings
from tests.support.paths import ROOT
from tests.support.programs import run_module
from tests.worker.support.helpers import Start, Submit, reaches, until

LEASE = {"lease_seconds": 1.0, "heartbeat_seconds": 0.3}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={**LEASE, "devices": ("cpu",)})


@pytest.fixture
def again(settings: Settings) -> Iterator[EmbeddedBroker]:
    """The broker of after the outage."""
    broker = EmbeddedBroker(settings)
    yield broker
    broker.stop()


def test_a_worker_whose_attempt_ends_in_an_outage_takes_the_next_job(
    start: Start, submit: Submit, store: JobStore, settings: Settings, broker: EmbeddedBroker, again: EmbeddedBroker
) -> None:
    start()
    job = submit("wait-for-file")
    reaches(store, job, Status.RUNNING)
    broker.stop()
    (settings.jobs_dir / job.id / "go").touch()
    time.sleep(4)  # beyond the lease, and for longer than the end of an attempt was once held back
    again.start()
    done = reaches(store, job, Status.SUCCEEDED, 20)
    assert (done.attempts, done.attempts_without_progress) == (1, 0), "an outage costs no attempt"
    reaches(store, submit("succeed"), Status.SUCCEEDED, 20)


def test_the_next_job_starts_at_once(start: Start, submit: Submit, store: JobStore) -> None:
    start()
    jobs = [submit("succeed") for _ in range(4)]
    done = [reaches(store, job, Status.SUCCEEDED, 30) for job in jobs]
    pauses = [
        (after.started_at - before.finished_at).total_seconds()
        for before, after in pairwise(done)
        if before.finished_at and after.started_at
    ]
    assert len(pauses) == 3
    assert median(pauses) < 0.2, "the event loop of Celery sleeps on unless it is woken"


def test_a_worker_that_receives_nothing_reconnects(
    start: Start, submit: Submit, store: JobStore, settings: Settings
) -> None:
    start("tests.worker.support.fake_deaf_worker", arguments=["at-first"])
    reaches(store, submit("succeed"), Status.SUCCEEDED, 25)
    until(lambda: check_workers(settings)[0], 5)


def test_a_worker_that_receives_nothing_for_good_says_so_and_ends(
    start: Start, submit: Submit, store: JobStore, settings: Settings
) -> None:
    worker = start("tests.worker.support.fake_deaf_worker", arguments=["for-good"])
    registry = WorkerRegistry(redis_client(settings), settings.key_prefix)
    until(lambda: check_workers(settings)[0], 20)
    job = submit("succeed")
    until(lambda: [one.state for one in registry.workers()] == [WorkerState.NOT_RECEIVING], 20)
    healthy, why = check_workers(settings)
    assert not healthy
    assert why.endswith("receives no messages")
    assert worker.wait(20) == NOT_RECEIVING
    until(lambda: not check_workers(settings)[0], 5)
    start()
    reaches(store, job, Status.SUCCEEDED, 20)


def test_the_health_check_in_an_outage_blames_no_worker(settings: Settings, broker: EmbeddedBroker) -> None:
    healthy, why = check_workers(settings)
    assert (healthy, why) == (False, "no worker of cpu is alive on this machine")
    environment = {**os.environ, **settings.environment()}
    answer = run_module("snf_app.cli.main", "worker", "--check", cwd=ROOT, env=environment, timeout=60)
    assert (answer.returncode, answer.stdout.strip()) == (1, why)
    broker.stop()
    healthy, why = check_workers(settings)
    assert healthy
    assert why.startswith("cannot be checked: ")


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are found by the name of their host")


@only_linux
def test_the_health_check_finds_a_worker_whose_machine_had_another_name(settings: Settings, served: None) -> None:
    assert not check_workers(settings)[0]
    environment = {**os.environ, **settings.environment(), "SNF_WORKER_HOST": "earlier-name"}
    with subprocess.Popen([sys.executable, "-m", "snf_worker.runtime.main"], env=environment, cwd=ROOT) as worker:
        try:
            until(lambda: check_workers(settings)[0])
            assert check_workers(settings)[1] == f"earlier-name:{worker.pid} (cpu): idle"
        finally:
            worker.terminate()
    until(lambda: not check_workers(settings)[1].startswith("cannot be checked"))
    assert not check_workers(settings)[0]


@pytest.mark.parametrize(
    ("host", "machine", "found"),
    [
        (socket.gethostname(), None, True),
        ("another-name", None, False),
        pytest.param(socket.gethostname(), "another-machine", False, marks=only_linux),
    ],
)
def test_the_health_check_finds_workers_of_earlier_versions_by_name_and_none_of_a_machine_that_had_this_name(
    settings: Settings, served: None, host: str, machine: str | None, found: bool
) -> None:
    entry = WorkerInfo(name=f"{host}:1", machine=machine, device="cpu", queues=(), started_at=datetime.now(UTC))
    WorkerRegistry(redis_client(settings), settings.key_prefix).announce(entry, 30)
    assert check_workers(settings)[0] == found
