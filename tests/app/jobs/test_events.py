"""The order of a job's events: the same in one go, in any pieces, and while they happen."""

import asyncio
import itertools
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snf_app.http.errors import Problem
from snf_app.jobs import events
from snf_app.jobs.events import HOLD_S, Cursor, EventStream, EventStreams, Timeline, TimelineEvent
from snf_app.jobs.service import JobStoreMonitor
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.events import CHUNK_BYTES, START, EventLog, StateChange, StateChanges, read_chunk
from snf_worker.jobs.record import Status
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job

pytestmark = pytest.mark.anyio

NOW_MS = int(time.time() * 1000)
"""Events of these tests are long past, except where they say otherwise."""
THEN_MS = NOW_MS - 3_600_000


def line(step: int, moment_ms: float) -> str:
    stamp = datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat()
    return json.dumps({"event": "metrics", "step": step, "time": stamp, "attempt": 1}) + "\n"


class Store:
    """Changes of a job as the job store has them."""

    def __init__(self, *moments: int, status: Status = Status.RUNNING) -> None:
        self.changes = [StateChange(f"{moment}-0", Status.RUNNING, 1, "") for moment in moments]
        self.status = status
        self.clock_ms = NOW_MS

    def news(self, cursor: Cursor) -> StateChanges:
        ids = [change.id for change in self.changes]
        first = 0 if cursor.change == START else ids.index(cursor.change) + 1
        return StateChanges(self.changes[first:], self.status, self.clock_ms)


def names(told: list[TimelineEvent]) -> list[Any]:
    return [one.data.get("step", one.cursor.change) for one in told]


def read_to_end(path: Path, store: Store, cursor: Cursor | None = None) -> list[TimelineEvent]:
    timeline = Timeline(path, cursor or Cursor())
    found: list[TimelineEvent] = []
    while True:
        looked = timeline.advance(store.news(timeline.cursor))
        found += looked.events
        if looked.end is not None:
            return found
        assert looked.more


def test_both_are_merged_by_time_and_every_id_is_a_place_to_go_on_from(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    moments = [10.25, 20.5, 20.75, 40.0]
    path.write_text("{damaged\n".join(line(step, THEN_MS + ms) for step, ms in enumerate(moments)) + "{damaged\n")
    store = Store(*(THEN_MS + ms for ms in (0, 20, 21, 40, 50)), status=Status.SUCCEEDED)
    whole = read_to_end(path, store)
    first, second, third, fourth, fifth = (change.id for change in store.changes)
    assert names(whole) == [first, 0, second, 1, 2, third, 3, fourth, fifth]
    for index, one in enumerate(whole):
        again = Cursor.parse(str(one.cursor))
        assert again == one.cursor
        assert read_to_end(path, store, again) == whole[index + 1 :]


def test_a_long_journal_comes_in_pieces_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(line(step, THEN_MS + 2 * step) for step in range(8000)))
    assert path.stat().st_size > 2 * CHUNK_BYTES
    store = Store(*range(THEN_MS + 1, THEN_MS + 16_001, 100), status=Status.FAILED)
    whole = read_to_end(path, store)
    assert len(whole) == 8160
    moments = [datetime.fromisoformat(one.data["time"]) for one in whole]
    assert moments == sorted(moments)


def test_what_was_told_live_is_what_is_told_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that looks at random moments, while journal and changes grow, sees the order of a later reader."""
    path = tmp_path / "events.jsonl"
    path.touch()
    store = Store()
    random.seed(5)
    clock = float(NOW_MS)
    monkeypatch.setattr(time, "time", lambda: clock / 1000)
    live = Timeline(path, Cursor())
    told: list[TimelineEvent] = []
    for step in range(400):
        clock += random.choice([0.0, 0.4, 3.0, 90.0])
        if random.random() < 0.4:
            store.changes.append(StateChange(f"{int(clock)}-{step}", Status.RUNNING, 1, ""))
        else:
            with path.open("a") as file:
                file.write(line(step, clock))
        if random.random() < 0.5:
            store.clock_ms = int(clock)
            told += live.advance(store.news(live.cursor)).events
    assert 0 < len(told) < 400
    store.status = Status.SUCCEEDED
    told += live.advance(store.news(live.cursor)).events
    assert told == read_to_end(path, store)


def test_an_event_waits_until_no_older_change_can_come(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1, NOW_MS))
    store = Store()
    timeline = Timeline(path, Cursor())
    store.clock_ms = NOW_MS - 1
    assert timeline.advance(store.news(timeline.cursor)).events == []
    store.clock_ms = NOW_MS + 1
    assert names(timeline.advance(store.news(timeline.cursor)).events) == [1]


def test_clocks_that_disagree_hold_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1, NOW_MS + 3_600_000))
    store = Store(NOW_MS + 7_200_000)
    timeline = Timeline(path, Cursor())
    ticks = itertools.count(100.0, HOLD_S / 4)
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    told: list[TimelineEvent] = []
    for _ in range(10):
        told += timeline.advance(store.news(timeline.cursor)).events
    assert names(told) == [1, store.changes[0].id]


def test_the_journal_goes_on_while_the_job_store_is_down(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1, NOW_MS))
    timeline = Timeline(path, Cursor())
    looked = timeline.advance(None)
    assert (names(looked.events), looked.end) == ([1], None)


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "a.1-0", "1.1-0.fin", "-1.1-0", "1.1-0\n", "1.1-0.end.end", "9" * 40 + ".1-0", "٣.1-0"]
)
def test_malformed_ids(text: str) -> None:
    with pytest.raises(ValueError, match="expected the id"):
        Cursor.parse(text)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    runtime = Path(f"/tmp/snf-streams-{os.getpid()}")
    return Settings(home=tmp_path, runtime_dir=runtime, redis_url=None, max_event_streams=2, broker_timeout_s=0.5)


@pytest.fixture
def store(settings: Settings) -> Iterator[JobStore]:
    broker = EmbeddedBroker(settings)
    broker.start()
    yield JobStore(redis_client(settings), settings.key_prefix)
    broker.stop()
    settings.runtime_folder.rmdir()


@pytest.fixture
async def streams(settings: Settings, store: JobStore) -> AsyncIterator[EventStreams]:
    watch = JobStoreMonitor(store)
    watch.start()
    made = EventStreams(settings, watch, threading.Event())
    yield made
    watch.stop()
    await made.close()


async def read_until(stream: AsyncIterator[bytes], text: str) -> list[str]:
    """The kinds of the events up to the part that has `text` in it."""
    kinds: list[str] = []
    async for part in stream:
        kinds += re.findall(r"^event: (\w+)$", part.decode(), re.MULTILINE)
        if text in part.decode():
            return kinds
    raise AssertionError(f"no {text} in {kinds}")


async def test_the_journal_goes_on_while_the_job_store_hangs(
    streams: EventStreams, settings: Settings, store: JobStore
) -> None:
    job = store.create(new_job())[0]
    folder = settings.jobs_dir / job.id
    folder.mkdir(parents=True)
    events = EventLog(folder, 1)
    server = int(redis_client(settings).info("server")["process_id"])
    stream = streams.follow(job.id, folder, Cursor())
    assert await read_until(stream, "queued") == ["state"]
    os.kill(server, signal.SIGSTOP)
    try:
        for word in ("first", "second"):
            events.write({"event": "log", "message": word})
            assert await read_until(stream, word) == ["log"]
    finally:
        os.kill(server, signal.SIGCONT)
    await asyncio.to_thread(store.request_cancel, job.id)
    assert await read_until(stream, "event: end") == ["state", "end"]


async def test_a_brief_stream_leaves_the_progress_of_the_past_out(
    streams: EventStreams, settings: Settings, store: JobStore
) -> None:
    job = store.create(new_job())[0]
    folder = settings.jobs_dir / job.id
    folder.mkdir(parents=True)
    events = EventLog(folder, 1)
    many = 6_000
    for step in range(many):
        events.write({"event": "metrics", "step": step})
        if step in (10, many - 10):
            events.write({"event": "log", "message": f"at {step}"})
    assert not read_chunk(folder / "events.jsonl").last, "the journal is more than a piece"
    whole = await read_until(streams.follow(job.id, folder, Cursor()), f'"step": {many - 1},')
    assert [whole.count(kind) for kind in ("metrics", "log", "state")] == [many, 2, 1]
    stream = streams.follow(job.id, folder, Cursor(), brief=True)
    kinds = await read_until(stream, f'"step": {many - 1},')
    assert [kinds.count(kind) for kind in ("log", "state")] == [2, 1]
    assert kinds[-1] == "metrics", "the newest progress is told"
    assert kinds.count("metrics") < many / 2
    for step in range(many, many + 3):
        events.write({"event": "metrics", "step": step})
    assert await read_until(stream, f'"step": {many + 2},') == ["metrics"] * 3


async def test_the_stream_of_a_forgotten_job_ends(streams: EventStreams, settings: Settings) -> None:
    parts = [part async for part in streams.follow("0" * 26, settings.jobs_dir / ("0" * 26), Cursor())]
    assert parts == [b"retry: 2000\n\n"]


async def test_an_idle_stream_says_that_it_is_alive(
    streams: EventStreams, settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.1)
    job = store.create(new_job())[0]
    stream = streams.follow(job.id, settings.jobs_dir / job.id, Cursor())
    assert await read_until(stream, ": ping\n\n") == ["state"]


async def test_places_are_few_and_free_again(streams: EventStreams) -> None:
    full = pytest.raises(Problem, match="2 of 2 event streams")
    with streams.slot("a"), streams.slot("b"), full, streams.slot("c"):
        pass
    with streams.slot("a"), pytest.raises(Problem, match="1 of 2"), streams.slot("a"):
        pass
    with streams.slot("a"):
        pass


async def test_a_client_that_leaves_ends_its_stream() -> None:
    ended = []

    async def endless() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"event: log\n\n"
        finally:
            ended.append(True)

    left = asyncio.Event()

    async def send(_message: Any) -> None:
        left.set()
        await asyncio.sleep(60)

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    stream = endless()
    assert await anext(stream)
    await EventStream(stream)(scope, receive, send)
    assert ended
