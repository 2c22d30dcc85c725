"""Event streams without HTTP: a job store that hangs, a job that is forgotten, clients that leave."""

import asyncio
import os
import re
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from snf_app.http.errors import Problem
from snf_app.jobs import events
from snf_app.jobs.events import Cursor, EventStream, EventStreams
from snf_app.jobs.service import JobStoreMonitor
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.events import EventLog, read_chunk
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.worker.support.helpers import new_job


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


def with_streams(
    settings: Settings, store: JobStore, work: Callable[[EventStreams], Coroutine[Any, Any, None]]
) -> None:
    """Runs `work` with the streams of a service."""

    async def run() -> None:
        watch = JobStoreMonitor(store)
        watch.start()
        streams = EventStreams(settings, watch, threading.Event())
        try:
            await asyncio.wait_for(work(streams), 60)
        finally:
            watch.stop()
            await streams.close()

    asyncio.run(run())


async def read_until(stream: AsyncIterator[bytes], text: str) -> list[str]:
    """The kinds of the events up to the part that has `text` in it."""
    kinds: list[str] = []
    async for part in stream:
        kinds += re.findall(r"^event: (\w+)$", part.decode(), re.MULTILINE)
        if text in part.decode():
            return kinds
    raise AssertionError(f"no {text} in {kinds}")


def test_the_journal_goes_on_while_the_job_store_hangs(settings: Settings, store: JobStore) -> None:
    job = store.create(new_job())[0]
    folder = settings.jobs_dir / job.id
    folder.mkdir(parents=True)
    events = EventLog(folder, 1)
    server = int(redis_client(settings).info("server")["process_id"])

    async def work(streams: EventStreams) -> None:
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

    with_streams(settings, store, work)


def test_a_brief_stream_leaves_the_progress_of_the_past_out(settings: Settings, store: JobStore) -> None:
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

    async def work(streams: EventStreams) -> None:
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

    with_streams(settings, store, work)


def test_the_stream_of_a_forgotten_job_ends(settings: Settings, store: JobStore) -> None:
    async def work(streams: EventStreams) -> None:
        parts = [part async for part in streams.follow("0" * 26, settings.jobs_dir / ("0" * 26), Cursor())]
        assert parts == [b"retry: 2000\n\n"]

    with_streams(settings, store, work)


def test_an_idle_stream_says_that_it_is_alive(
    settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.1)
    job = store.create(new_job())[0]

    async def work(streams: EventStreams) -> None:
        stream = streams.follow(job.id, settings.jobs_dir / job.id, Cursor())
        assert await read_until(stream, ": ping\n\n") == ["state"]

    with_streams(settings, store, work)


def test_places_are_few_and_free_again(settings: Settings, store: JobStore) -> None:
    async def work(streams: EventStreams) -> None:
        full = pytest.raises(Problem, match="2 of 2 event streams")
        with streams.slot("a"), streams.slot("b"), full, streams.slot("c"):
            pass
        with streams.slot("a"), pytest.raises(Problem, match="1 of 2"), streams.slot("a"):
            pass
        with streams.slot("a"):
            pass

    with_streams(settings, store, work)


def test_a_client_that_leaves_ends_its_stream() -> None:
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

    async def answer() -> None:
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        stream = endless()
        assert await anext(stream)
        await EventStream(stream)(scope, receive, send)
        assert ended

    asyncio.run(asyncio.wait_for(answer(), 10))
