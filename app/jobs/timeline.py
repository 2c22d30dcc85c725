"""One order for the two sources of a job's events, the same for who watches live and who reads it afterwards.

The trainer's journal and the job store's changes of state are merged by time, each in its own order. A pair of
cursors says how far one has read, and what comes next follows from it alone; so an event is taken only once it is
known that the other source has nothing older to come.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from worker.jobs.journal import Event, read_chunk
from worker.jobs.record import Status
from worker.jobs.state_changes import START, StateChange, StateChanges

SETTLED_MS = 250
"""Age at which the journal has all events of a moment: they are written right after they are stamped."""
HOLD_S = 2.0
"""Longest wait for the other source; only clocks that disagree need it, and then order gives way."""

_ID = re.compile(r"([0-9]{1,15})\.([0-9]{1,15}-[0-9]{1,19})(\.end)?")


@dataclass(frozen=True)
class Cursor:
    """Where a reader stands in both sources; its text is the id of the event read last."""

    offset: int = 0
    change: str = START
    ended: bool = False

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor of an event's id; raises `ValueError`."""
        found = _ID.fullmatch(text)
        if found is None:
            raise ValueError("expected the id of an event, such as 1234.1764012345678-0")
        return cls(int(found[1]), found[2], found[3] is not None)

    def __str__(self) -> str:
        return f"{self.offset}.{self.change}{'.end' if self.ended else ''}"


class Told(NamedTuple):
    """An event as readers get it, and where they stand after it."""

    cursor: Cursor
    kind: str
    data: Event


class Advance(NamedTuple):
    """What a reader learned by looking once."""

    told: list[Told]
    more: bool  # whether the journal has more already
    end: Status | None  # how the job ended, once all of it was told


class Timeline:
    """One reader's way along the events of a job."""

    def __init__(self, journal: Path, cursor: Cursor) -> None:
        self.cursor = cursor
        self._journal = journal
        self._position = cursor.offset  # beyond the cursor's where damaged lines follow, of which no id speaks
        self._held_since: float | None = None

    def advance(self, news: StateChanges | None) -> Advance:
        """What can be told now; blocks on the disk.

        `news` is what the job store says of the changes after `cursor`, None where it does not answer. It has to be
        asked before the call: a journal that is read after the job's end is complete.
        """
        now_ms = time.time() * 1000
        piece = read_chunk(self._journal, self._position)
        last = news.status if news is not None and news.over else None
        in_order = last is None and not self._held_too_long()
        clock_ms = news.clock_ms if news is not None and in_order else math.inf
        changes = deque(news.changes if news is not None else ())
        told: list[Told] = []
        for end, event in piece.entries:
            moment = _milliseconds(event)
            while changes and changes[0].time_ms < moment:
                told.append(self._change(changes.popleft()))
            if moment > clock_ms:  # a change may come that is older
                break
            told.append(self._event(end, event))
        else:
            self._position = piece.end
            while piece.last and changes and (not in_order or changes[0].time_ms < now_ms - SETTLED_MS):
                told.append(self._change(changes.popleft()))
        held = not told and bool(piece.entries or changes)
        self._held_since = (self._held_since or time.monotonic()) if held else None
        return Advance(told, more=not piece.last and not held, end=last if piece.last else None)

    def _held_too_long(self) -> bool:
        return self._held_since is not None and time.monotonic() - self._held_since > HOLD_S

    def _event(self, end: int, event: Event) -> Told:
        self.cursor = replace(self.cursor, offset=end)
        self._position = end
        return Told(self.cursor, event["event"], event)

    def _change(self, change: StateChange) -> Told:
        self.cursor = replace(self.cursor, change=change.id)
        moment = datetime.fromtimestamp(change.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        data: Event = {"status": change.status.value, "attempt": change.attempt, "time": moment}
        if change.worker:
            data["worker"] = change.worker
        return Told(self.cursor, "state", data)


def _milliseconds(event: Event) -> float:
    try:
        return datetime.fromisoformat(event["time"]).timestamp() * 1000
    except (KeyError, TypeError, ValueError):
        return 0.0  # no stamp, no order: told at once
