"""Server-sent events of jobs: a bounded number of streams that hold no thread and share few connections."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from app.http.errors import Problem
from app.http.shares import Shares
from app.http.streams import ClosedStream
from app.jobs.store_monitor import JobStoreMonitor
from app.jobs.timeline import Advance, Cursor, Timeline, Told
from worker.errors import BrokerDown
from worker.jobs.journal import FILE
from worker.jobs.state_changes import ChangeReader, News
from worker.settings import Settings

log = logging.getLogger(__name__)

LOOK_S = 0.35
"""Time between two looks at journal and job store."""
KEEP_ALIVE_S = 15.0
PROGRESS = "metrics"
"""The events that there are most of, thousands an hour."""
RETRY_S = 2
"""Time after which a client should come back."""


class EventStreams:
    """Follows jobs for clients; at most `max_event_streams` at once."""

    def __init__(self, settings: Settings, watch: JobStoreMonitor, draining: threading.Event) -> None:
        self._changes = ChangeReader(settings)
        self._places = Shares(settings.max_event_streams)
        self._watch = watch
        self._draining = draining
        self._down = False

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Hold the place of one stream for a caller; raise a 429 problem where it gets none."""
        if not self._places.take(caller):
            raise Problem(
                429,
                "too-many-event-streams",
                "Too many event streams",
                f"{self._places.capacity - self._places.free} of {self._places.capacity} event streams are open, and "
                "one caller gets at most as many as stay free for all others",
                headers={"Retry-After": str(RETRY_S)},
            )
        try:
            yield
        finally:
            self._places.give_back(caller)

    async def follow(self, job_id: str, folder: Path, cursor: Cursor, *, brief: bool = False) -> AsyncGenerator[bytes]:
        """The events of a job after `cursor`, until the job is over or forgotten or the service stops.

        With `brief` those that tell of progress are left out until the stream has caught up with the journal's end.
        """
        timeline = Timeline(folder / FILE, cursor)
        yield format_sse_event(retry=RETRY_S * 1000)
        sent_at = time.monotonic()
        while not self._draining.is_set():
            news = await self._news(job_id, timeline.cursor)
            if news is not None and news.status is None:
                return
            looked, encoded = await asyncio.to_thread(_look, timeline, news, brief=brief)
            brief = brief and looked.more
            if encoded or time.monotonic() - sent_at > KEEP_ALIVE_S:
                yield encoded or KEEPALIVE_COMMENT
                sent_at = time.monotonic()
            if looked.end is not None:
                yield _encode(Told(replace(timeline.cursor, ended=True), "end", {"status": looked.end.value}))
                return
            if not looked.more:
                await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Closes the connections to the job store."""
        await self._changes.close()

    async def _news(self, job_id: str, cursor: Cursor) -> News | None:
        # A store that hangs would hold up the journal at every look.
        if self._down and not self._watch.answers:
            return None
        try:
            news = await self._changes.after(job_id, cursor.change)
        except BrokerDown as problem:
            if not self._down:
                log.warning("event streams go on without changes of state: %s", problem.detail)
            self._down = True
            return None
        self._down = False
        return news


class EventStream(ClosedStream):
    """The answer that carries a stream."""

    def __init__(self, content: AsyncGenerator[bytes]) -> None:
        # Proxies must neither keep nor gather what is sent.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, headers, EventSourceResponse.media_type)


def _look(timeline: Timeline, news: News | None, *, brief: bool) -> tuple[Advance, bytes]:
    looked = timeline.advance(news)
    # The last piece is told whole: it is small, and the newest progress is in it.
    leave_out = PROGRESS if brief and looked.more else None
    return looked, b"".join(_encode(told) for told in looked.told if told.kind != leave_out)


def _encode(told: Told) -> bytes:
    return format_sse_event(event=told.kind, data_str=json.dumps(told.data), id=str(told.cursor))
