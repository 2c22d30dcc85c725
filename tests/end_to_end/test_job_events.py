"""Jobs followed over HTTP while trainers are killed, the broker is restarted and clients are cut off."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from httpx_sse import connect_sse

from snf_app.jobs.events import POLL_S
from snf_worker.broker.connection import redis_client
from snf_worker.settings import Settings
from tests.end_to_end.support.jobs import FEW_IMAGES, SMALL, submit, written
from tests.end_to_end.support.processes import halted_training, kill
from tests.end_to_end.support.service import answers, await_job, running, serving, snf_process
from tests.worker.support.helpers import until

STREAMS = 4
"""Streams that one client gets: half of all."""
STEPS = 960


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]


Events = list[Event]


@pytest.fixture(scope="module")
def house(module_home: Path) -> Iterator[httpx.Client]:
    """Everything that `snf up` starts, with few event streams, and the engine that compiles nothing."""
    with running(
        "tests.support.forking_house",
        home=module_home,
        forked=True,
        shipped=False,
        engine="torch",
        max_event_streams=2 * STREAMS,
        train_threads=1,
    ) as client:
        yield client


def some_events(
    client: httpx.Client, job_id: str, last_id: str = "", most: int = 10**9, into: Events | None = None
) -> Events | None:
    """Events of one connection, cut off after `most`; None where the service says that there will be no more."""
    found: Events = []
    into = [] if into is None else into
    headers = {"Last-Event-ID": last_id} if last_id else {}
    # What came before the service died counts.
    with (
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),
        connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source,
    ):
        if source.response.status_code == 204:
            return None
        if source.response.status_code == 429:  # the place of the connection before is not free yet
            time.sleep(0.2)
            return []
        assert source.response.status_code == 200, source.response.read()
        for event in source.iter_sse():
            if event.data:  # the first one says only when to come back
                found.append(Event(event.id, event.event, event.json()))
                into.append(found[-1])
            if len(found) == most:
                break
    return found


class CutOffClient(threading.Thread):
    """Loses its connection after every few events, and comes back with its last id until it is told not to."""

    def __init__(self, base_url: httpx.URL, job_id: str, every: int) -> None:
        super().__init__(daemon=True)
        self._client = httpx.Client(base_url=base_url, timeout=60, trust_env=False)
        self._job_id = job_id
        self._every = every
        self.events: Events = []
        self.connections = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                last_id = self.events[-1].id if self.events else ""
                try:
                    found = some_events(self._client, self._job_id, last_id, self._every, self.events)
                except httpx.ConnectError:
                    time.sleep(0.1)
                    continue
                if found is None:
                    return
                self.connections += 1
        except Exception as error:
            self.failure = error

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.events)


def kill_broker(home: Path) -> None:
    client = redis_client(Settings(home=home))
    os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
    client.close()


@dataclass(frozen=True)
class Followed:
    """A job whose trainer, service and broker were killed one after the other, and who followed it."""

    job: dict[str, Any]
    clients: list[CutOffClient]
    watch: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def followed(house: httpx.Client, module_home: Path) -> Followed:
    parameters = FEW_IMAGES | {"max_steps": STEPS, "validations": 3, "checkpoint_seconds": 0.2}
    job = submit(house, model="followed", architecture=SMALL, parameters=parameters)
    watch = ThreadPoolExecutor(1).submit(
        snf_process, module_home, "jobs", "watch", job["id"], "--json", "--url", str(house.base_url)
    )
    clients = [CutOffClient(house.base_url, job["id"], every) for every in (1, 7)]
    for client in clients:
        client.start()
    patient = clients[1]

    def count(kind: str) -> int:
        return written(module_home, job["id"], kind)

    # Trainers wait while others read: every step that they take costs time.
    until(lambda: count("checkpoint") and count("metrics"))
    with halted_training(module_home):
        until(lambda: patient.count("checkpoint") and patient.count("metrics"))
    kill(module_home, "snf_worker.attempts.train")
    before = count("metrics")
    until(lambda: count("metrics") > before)
    with halted_training(module_home):
        # Not before all know that it runs: a change that was not told before an outage comes after its events.
        # One of them connects anew for each event, which takes a while on a busy machine.
        until(lambda: all(client.count("state") == 6 for client in clients), 150)
        time.sleep(2 * POLL_S)
    seen, before = patient.count("checkpoint"), count("checkpoint")
    kill_broker(module_home)
    until(lambda: count("checkpoint") > before)
    with halted_training(module_home):
        until(lambda: patient.count("checkpoint") > seen)
        kill(module_home, "snf_app.server")
        until(lambda: answers(house))
    done = await_job(house, job["id"], "succeeded")
    for client in clients:
        client.join(60)
        assert not client.is_alive()
    return Followed(done, clients, watch.result(60))


def test_clients_that_are_cut_off_miss_and_repeat_nothing(house: httpx.Client, followed: Followed) -> None:
    job, clients = followed.job, followed.clients
    replay = some_events(house, job["id"])
    assert replay is not None
    for client in clients:
        assert client.failure is None
        assert client.connections >= len(replay) // 7
        assert client.events == replay
    ids = [event.id for event in replay]
    assert len(set(ids)) == len(ids)
    states = [event.data["status"] for event in replay if event.kind == "state"]
    assert states == ["queued", "starting", "running", "queued", "starting", "running", "succeeded"]
    assert {"started", "metrics", "validation", "samples", "checkpoint", "published"} <= {e.kind for e in replay}
    assert replay[-1][1:] == ("end", {"status": "succeeded"})
    assert some_events(house, job["id"], replay[-1].id) is None
    assert some_events(house, job["id"], replay[-2].id) == [replay[-1]]


def test_the_command_line_follows_through_all_of_it(house: httpx.Client, followed: Followed) -> None:
    assert followed.watch.returncode == 0, followed.watch.stderr
    replay = some_events(house, followed.job["id"])
    assert replay is not None
    assert list(map(json.loads, followed.watch.stdout.splitlines())) == [
        {"event": event.kind, **event.data} for event in replay
    ]
    assert "trying again" in followed.watch.stderr


def test_a_place_may_stand_in_the_query(house: httpx.Client, followed: Followed) -> None:
    path = f"/v1/jobs/{followed.job['id']}/events"
    whole = house.get(path)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert whole.text.startswith("retry: 2000\n\n")
    third = whole.text.split("id: ")[3].partition("\n")[0]
    rest = house.get(path, params={"last_event_id": third}).text
    assert rest.removeprefix("retry: 2000\n\n")
    assert whole.text.endswith(rest.removeprefix("retry: 2000\n\n"))


@pytest.mark.parametrize("part", ["events", "metrics", "log", "samples", "samples/1", "result"])
@pytest.mark.parametrize("job_id", ["nothing", "0" * 26, "%2e%2e", "..%2f..%2fregistry", "0" * 26 + "%0a"])
def test_nothing_is_found_under_what_is_no_job(house: httpx.Client, job_id: str, part: str) -> None:
    answer = house.get(f"/v1/jobs/{job_id}/{part}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_curve_rises_strictly(house: httpx.Client, followed: Followed) -> None:
    path = f"/v1/jobs/{followed.job['id']}/metrics"
    curve = house.get(path).json()
    for part in ("points", "validations"):
        steps = [one["step"] for one in curve[part]]
        assert steps == sorted(set(steps)), part
    assert {point["attempt"] for point in curve["points"]} == {1, 2}
    assert curve["validations"][-1]["step"] == STEPS
    assert all(point["bits_per_dim"] > 0 for point in curve["points"])

    thinned = house.get(path, params={"points": 3}).json()["points"]
    assert len(thinned) == 3
    assert (thinned[0], thinned[-1]) == (curve["points"][0], curve["points"][-1])
    assert house.get(path, params={"points": 1}).status_code == 422

    answer = house.get(path, params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["step"]) for row in rows] == sorted(
        {one["step"] for p in ("points", "validations") for one in curve[p]}
    )
    found = {int(row["step"]): float(row["validation_bits_per_dim"]) for row in rows if row["validation_bits_per_dim"]}
    assert found == {one["step"]: one["bits_per_dim"] for one in curve["validations"]}


def test_previews_and_log(house: httpx.Client, module_home: Path, followed: Followed) -> None:
    path = f"/v1/jobs/{followed.job['id']}"
    samples = house.get(f"{path}/samples").json()["samples"]
    assert samples[-1]["step"] == STEPS
    for one in samples:
        image = house.get(one["url"])
        assert image.headers["content-type"] == "image/png"
        assert image.content.startswith(b"\x89PNG\r\n")
    missing = house.get(f"{path}/samples/{STEPS - 1}")
    assert (missing.status_code, missing.json()["type"]) == (404, "sample-not-found")

    log = module_home / "jobs" / followed.job["id"] / "trainer.log"
    log.write_bytes(log.read_bytes() + b"one line\nand another\n")
    whole = house.get(f"{path}/log").text
    assert whole.endswith("\n")
    assert house.get(f"{path}/log", params={"tail": 2}).text == "one line\nand another\n"
    assert house.get(f"{path}/log", params={"tail": whole.count("\n") + 1}).text == whole
    log.write_bytes(b"first\n" + b"x" * 2**20 + b"\nlast\n")
    assert house.get(f"{path}/log").text == "last\n"
    assert house.get(f"{path}/log", params={"tail": 2**30}).status_code == 422


def test_streams_are_few_and_free_again(house: httpx.Client) -> None:
    job = submit(house, model="crowded", device="cuda")  # which the worker does not have
    path = f"/v1/jobs/{job['id']}"
    with contextlib.ExitStack() as open_streams:
        for _ in range(STREAMS):
            source = open_streams.enter_context(connect_sse(house, "GET", f"{path}/events"))
            assert source.response.status_code == 200
        refused = house.get(f"{path}/events")
        assert (refused.status_code, refused.json()["type"]) == (429, "too-many-event-streams")
        assert int(refused.headers["retry-after"]) > 0
    # Clients that go away free their places.
    until(lambda: some_events(house, job["id"], most=1), 10)
    answer = house.get(f"{path}/result")
    assert (answer.status_code, answer.json()["type"]) == (409, "job-has-no-result")
    assert answer.json()["job_status"] == "queued"
    house.post(f"{path}/cancel")
    events = some_events(house, job["id"])
    assert events is not None
    assert events[-1][1:] == ("end", {"status": "cancelled"})


def test_a_paused_job_keeps_its_streams_and_a_stopping_service_ends_them(
    house: httpx.Client, module_home: Path
) -> None:
    job = submit(house, model="paused", device="cuda")
    house.post(f"/v1/jobs/{job['id']}/pause").raise_for_status()
    with contextlib.ExitStack() as stack:
        source = None
        with serving(module_home, shipped=False) as service:
            source = stack.enter_context(connect_sse(service, "GET", f"/v1/jobs/{job['id']}/events"))
            lines = source.response.iter_lines()
            while '"paused"' not in next(lines):
                pass
            time.sleep(1.0)
            began = time.monotonic()
        # The service is gone, and it did not wait for the stream.
        assert time.monotonic() - began < 20
    house.post(f"/v1/jobs/{job['id']}/cancel")
