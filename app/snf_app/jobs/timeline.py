"""Events of a job, merged by time from journal and store. The order depends on a reader's two cursors alone."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from snf_worker.jobs.events import START, Event, StateChange, StateChanges, read_chunk
from snf_worker.jobs.record import Status

SETTLED_MS = 250
"""Age in milliseconds after which all events of a moment are in the journal."""
HOLD_S = 2.0
"""Longest wait for the other source in seconds; needed only where clocks differ, and then order is given up."""

EVENT_ID = r"([0-9]{1,15})\.([0-9]{1,15}-[0-9]{1,19})(\.end)?"
"""Pattern of the id of an event: offset in the event file, id of a status change, and whether it is the last event."""


@dataclass(frozen=True)
class Cursor:
    """Byte offset in a job's event file, and id of the last status change read."""

    offset: int = 0
    change: str = START
    ended: bool = False

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the position after the event with an id; raise ``ValueError`` if the id is malformed."""
        match = re.fullmatch(EVENT_ID, text)
        if match is None:
            raise ValueError("expected the id of an event, such as 1234.1764012345678-0")
        return cls(int(match[1]), match[2], match[3] is not None)

    def __str__(self) -> str:
        return f"{self.offset}.{self.change}{'.end' if self.ended else ''}"


class TimelineEvent(NamedTuple):
    """An event of a job: its type, its data, and the position from which reading continues after it."""

    cursor: Cursor
    kind: str
    data: Event


class Advance(NamedTuple):
    """New events, whether the journal already has more, and the final status after the last event."""

    events: list[TimelineEvent]
    more: bool
    end: Status | None


class Timeline:
    """Reader of a job's events from its journal and of its status changes, merged in the order of time."""

    def __init__(self, journal: Path, cursor: Cursor) -> None:
        self.cursor = cursor
        self._journal = journal
        # Beyond the cursor's offset where damaged lines follow, which have no event id.
        self._position = cursor.offset
        self._held_since: float | None = None

    def advance(self, news: StateChanges | None) -> Advance:
        """Return the next events; ``news`` must be read before the call, so that the journal is complete."""
        now_ms = time.time() * 1000
        piece = read_chunk(self._journal, self._position)
        last = news.status if news is not None and news.over else None
        in_order = last is None and not self._held_too_long()
        clock_ms = news.clock_ms if news is not None and in_order else math.inf
        changes = deque(news.changes if news is not None else ())
        events: list[TimelineEvent] = []
        for end, event in piece.entries:
            moment = _milliseconds(event)
            while changes and changes[0].time_ms < moment:
                events.append(self._change(changes.popleft()))
            # An older change may still arrive.
            if moment > clock_ms:
                break
            events.append(self._event(end, event))
        else:
            self._position = piece.end
            while piece.last and changes and (not in_order or changes[0].time_ms < now_ms - SETTLED_MS):
                events.append(self._change(changes.popleft()))
        held = not events and bool(piece.entries or changes)
        self._held_since = (self._held_since or time.monotonic()) if held else None
        return Advance(events, more=not piece.last and not held, end=last if piece.last else None)

    def _held_too_long(self) -> bool:
        return self._held_since is not None and time.monotonic() - self._held_since > HOLD_S

    def _event(self, end: int, event: Event) -> TimelineEvent:
        self.cursor = replace(self.cursor, offset=end)
        self._position = end
        return TimelineEvent(self.cursor, event["event"], event)

    def _change(self, change: StateChange) -> TimelineEvent:
        self.cursor = replace(self.cursor, change=change.id)
        moment = datetime.fromtimestamp(change.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        data: Event = {"status": change.status.value, "attempt": change.attempt, "time": moment}
        if change.worker:
            data["worker"] = change.worker
        return TimelineEvent(self.cursor, "state", data)


def _milliseconds(event: Event) -> float:
    try:
        return datetime.fromisoformat(event["time"]).timestamp() * 1000
    except (KeyError, TypeError, ValueError):
        # Without a time an event has no order, and is delivered at once.
        return 0.0
