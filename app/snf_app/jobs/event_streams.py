"""Server-sent event streams of jobs. No stream needs a thread or a Redis connection of its own."""

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

from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem
from snf_app.http.router import ClosedStream
from snf_app.jobs.store_monitor import JobStoreMonitor
from snf_app.jobs.timeline import Advance, Cursor, Timeline, TimelineEvent
from snf_worker.errors import BrokerDown
from snf_worker.jobs.events import FILE, ChangeReader, StateChanges
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 0.35
"""Seconds between two polls of journal and job store."""
KEEP_ALIVE_S = 15.0
PROGRESS = "metrics"
"""The most frequent events, thousands per hour."""
RETRY_S = 2
"""Seconds after which a client should reconnect."""


class EventStreams:
    """Streams of jobs' events, of which all callers and each caller may have a limited number open."""

    def __init__(self, settings: Settings, watch: JobStoreMonitor, draining: threading.Event) -> None:
        self._changes = ChangeReader(settings)
        self._slots = FairShares(settings.max_event_streams)
        self._watch = watch
        self._draining = draining
        self._down = False

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Count a stream of a caller as open during the block; raise 429 if too many are open."""
        if not self._slots.take(caller):
            raise Problem(
                429,
                "too-many-event-streams",
                "Too many event streams",
                f"{self._slots.capacity - self._slots.free} of {self._slots.capacity} event streams are open, and "
                "one caller may have at most as many as stay free for all others; close some",
                headers={"Retry-After": str(RETRY_S)},
            )
        try:
            yield
        finally:
            self._slots.give_back(caller)

    async def follow(self, job_id: str, folder: Path, cursor: Cursor, *, brief: bool = False) -> AsyncGenerator[bytes]:
        """Yield encoded events until the job ends, is deleted, or the service stops; ``brief`` skips past metrics."""
        timeline = Timeline(folder / FILE, cursor)
        yield format_sse_event(retry=RETRY_S * 1000)
        sent_at = time.monotonic()
        while not self._draining.is_set():
            changes = await self._changes_after(job_id, timeline.cursor)
            if changes is not None and changes.status is None:
                return
            advance, encoded = await asyncio.to_thread(_advance, timeline, changes, brief=brief)
            brief = brief and advance.more
            if encoded or time.monotonic() - sent_at > KEEP_ALIVE_S:
                yield encoded or KEEPALIVE_COMMENT
                sent_at = time.monotonic()
            if advance.end is not None:
                yield _encode(TimelineEvent(replace(timeline.cursor, ended=True), "end", {"status": advance.end.value}))
                return
            if not advance.more:
                await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        await self._changes.close()

    async def _changes_after(self, job_id: str, cursor: Cursor) -> StateChanges | None:
        # A store that hangs would delay the journal at every poll.
        if self._down and not self._watch.answers:
            return None
        try:
            changes = await self._changes.after(job_id, cursor.change)
        except BrokerDown as problem:
            if not self._down:
                log.warning("event streams continue without changes of state: %s", problem.detail)
            self._down = True
            return None
        self._down = False
        return changes


class EventStream(ClosedStream):
    """Response of ``text/event-stream`` with headers against caches and buffers of proxies."""

    def __init__(self, content: AsyncGenerator[bytes]) -> None:
        # Proxies must not cache or buffer the events.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, headers, EventSourceResponse.media_type)


def _advance(timeline: Timeline, changes: StateChanges | None, *, brief: bool) -> tuple[Advance, bytes]:
    advance = timeline.advance(changes)
    # The last piece is sent whole: it is small, and contains the newest progress.
    leave_out = PROGRESS if brief and advance.more else None
    return advance, b"".join(_encode(event) for event in advance.events if event.kind != leave_out)


def _encode(event: TimelineEvent) -> bytes:
    return format_sse_event(event=event.kind, data_str=json.dumps(event.data), id=str(event.cursor))
