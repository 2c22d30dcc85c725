"""The file of a job's events, one JSON object per line, read in chunks of bounded size."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from snf_worker.broker.connection import broker_url, translate_redis_errors
from snf_worker.jobs.record import TERMINAL, Status
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

FILE = "events.jsonl"
CHUNK_BYTES = 256 * 1024  # number of bytes read at once; a line is far shorter

Event = dict[str, Any]


class Entry(NamedTuple):
    """An event of a job, and the byte offset in the file at which the next line begins."""

    end: int
    event: Event


class JournalChunk(NamedTuple):
    """Consecutive events of a job, and the byte offset at which the next chunk begins."""

    entries: list[Entry]
    end: int
    last: bool  # whether the chunk reaches the end of the file


def read_chunk(path: Path, offset: int = 0, limit: int = CHUNK_BYTES) -> JournalChunk:
    """Return the events of the complete lines in a chunk; damaged lines are skipped, NaN and infinities become None."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        return JournalChunk([], offset, True)
    last = len(data) < limit
    complete = data[: data.rfind(b"\n") + 1]
    if not complete and not last:
        # No event is that long: the line is skipped, and its rest counts as a damaged line.
        log.warning("skipping %d bytes of %s without the end of a line", limit, path)
        return JournalChunk([], offset + limit, False)
    entries = []
    end = offset
    for line in complete.splitlines(keepends=True):
        end += len(line)
        event = _parse(line)
        if event is not None:
            entries.append(Entry(end, event))
        elif line.strip():
            log.warning("skipping a damaged line of %s: %r", path, line[:80])
    return JournalChunk(entries, end, last)


def read_chunks(path: Path, offset: int = 0) -> Iterator[JournalChunk]:
    """Yield chunks of up to 256 KiB of events, from byte ``offset`` to the end of the file."""
    while True:
        chunk = read_chunk(path, offset)
        yield chunk
        if chunk.last:
            return
        offset = chunk.end


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line, parse_constant=lambda _name: None)
    except ValueError:
        return None
    # The kind becomes the name of a server-sent event, where the end of a line would start another field.
    if isinstance(event, dict) and isinstance(event.get("event"), str) and event["event"].isidentifier():
        return event
    return None


_PROGRESS = ("step", "steps", "epoch", "images_per_second", "eta_seconds")
_VERSION = ("model", "version", "ref")
_RESULTS = {
    "published": (*_VERSION, "live", "live_version", "unfit", "smallest_p"),
    "scored": ("model", "images", "anomalies", "errors", "output", "plan"),
    "calibrated": (*_VERSION, "calibration", "smallest_p", "active", "reason"),
    "evaluated": ("model", "auroc", "auroc_over_baseline", "false_alarms"),
    "recommended": ("proposal", "preset", "reasons", "seconds"),
    "limited": (*_VERSION, "limit", "calibration", "alpha", "sizes", "not_determinable"),
}
"""The keys of the event that ends each kind of job, which become its result."""
_METRICS = ("bits_per_dim", "reconstruction_error", "learning_rate")


class EventLog:
    """Writer that appends events to a job's event file, as JSON lines with the time and the attempt number."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self._attempt = attempt
        self._file = (folder / FILE).open("ab+", buffering=0)  # stays open as long as the process runs
        # A killed attempt, or a full disk, may have left half a line; the next event must not be appended to it.
        self._half_line = bool(self._file.seek(0, os.SEEK_END)) and not _ends_line(self._file.fileno())

    def write(self, event: dict[str, Any]) -> None:
        """Append an event, whose key ``event`` names its type; raise ``OSError`` if the disk takes no writes.

        Messages are written to the log of the process, too, which ``GET /v1/jobs/{id}/log`` returns.
        """
        stamped = {**event, "time": datetime.now(UTC).isoformat(), "attempt": self._attempt}
        line = json.dumps(stamped, separators=(",", ":")).encode() + b"\n"
        if self._half_line:
            line = b"\n" + line
        # One unbuffered write for each line: lines of two writers never mix.
        written = self._file.write(line)
        self._half_line = written < len(line)
        if self._half_line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if "message" in event:
            log.info("%s", event["message"])


class EventReader:
    def __init__(self, folder: Path, attempt: int) -> None:
        self._path = folder / FILE
        self._attempt = attempt
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> list[Event]:
        """Return the attempt's events since the last call; an incomplete line is left for a later call."""
        events: list[Event] = []
        for chunk in read_chunks(self._path, self._offset):
            self._offset = chunk.end
            # An earlier attempt that lost its lease may write events until it notices.
            events += [event for _, event in chunk.entries if event.get("attempt") == self._attempt]
        return events


class AttemptSummary:
    """Progress, metrics, checkpoint, result and error from the events of one attempt, for the job's record."""

    def __init__(self, progress: dict[str, Any], metrics: dict[str, Any], checkpoint_step: int | None) -> None:
        self.progress = dict(progress)
        self.metrics = dict(metrics)
        self.checkpoint_step = checkpoint_step
        self.new_checkpoint = False
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.changed = False

    def add(self, event: dict[str, Any]) -> None:
        """Update this summary with an event; other kinds of events are ignored."""
        kind = event["event"]
        if kind in ("metrics", "scoring"):
            self.progress.update({key: event[key] for key in _PROGRESS if key in event})
            self.metrics.update({key: event[key] for key in _METRICS if key in event})
            if "progress" in event:  # of the whole job, with the evaluation after the last step
                self.progress["fraction"] = event["progress"]
        elif kind == "validation":
            self.progress["step"] = event["step"]
            self.metrics["validation_bits_per_dim"] = event.get("bits_per_dim")
        elif kind == "evaluation":
            # Under a key of its own, because it is about the finished model and shares keys with metrics of steps.
            numbers = {key: value for key, value in event.items() if isinstance(value, int | float)}
            self.metrics["evaluation"] = _finite({key: value for key, value in numbers.items() if key != "attempt"})
        elif kind == "checkpoint" or (kind == "started" and event["step"] > (self.checkpoint_step or 0)):
            # An attempt may start from a checkpoint that an earlier one wrote before its worker vanished.
            step = self.progress["step"] = int(event["step"])
            if self.checkpoint_step is None or step > self.checkpoint_step:
                self.checkpoint_step, self.new_checkpoint = step, True
        elif kind in _RESULTS:
            # Attempts of earlier versions lack some of the keys. A calibration of theirs says nothing of `active`.
            missing = {"active": None, "reason": None} if kind == "calibrated" else {}
            self.result = missing | {key: event[key] for key in _RESULTS[kind] if key in event}
        elif kind == "error":
            self.error = {key: event.get(key, "") for key in ("type", "title", "detail")}
        else:
            return
        self.changed = True

    def changes(self) -> dict[str, Any]:
        """Return the fields of the job record to update; NaN and infinite values become None."""
        self.changed = False
        fields: dict[str, Any] = {"progress": _finite(self.progress), "metrics": _finite(self.metrics)}
        if self.checkpoint_step is not None:
            fields["checkpoint_step"] = self.checkpoint_step
        if self.new_checkpoint:
            fields["attempts_without_progress"] = 0
        return fields


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN: a diverged metric is shown as missing.
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in values.items()
    }


def _ends_line(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return os.pread(fd, 1, size - 1) == b"\n"


MAX_EVENTS = 20_000
"""Most reports of a training that are kept in memory; of a training of weeks every second, fourth and so on."""

T = TypeVar("T")


@dataclass(frozen=True)
class CurveEvents:
    """Training curve with strictly increasing steps, thinned to at most 20 000 events of a kind."""

    points: list[Event] = field(default_factory=list)
    validations: list[Event] = field(default_factory=list)


def read_curve(path: Path) -> CurveEvents:
    """Return the training curve. An attempt that resumes replaces the events of earlier attempts from its step on."""
    points, validations = _Thinned(), _Thinned()
    newest = 0
    for chunk in read_chunks(path):
        for _, event in chunk.entries:
            attempt, step = event.get("attempt"), event.get("step")
            # An attempt that lost its lease may write events until it notices; they do not belong to the job.
            if not isinstance(attempt, int) or not isinstance(step, int) or attempt < newest:
                continue
            newest = attempt
            match event["event"]:
                case "started":
                    points.cut(step + 1)
                    validations.cut(step + 1)
                case "metrics":
                    points.add(event)
                case "validation":
                    validations.add(event)
    return CurveEvents(points.events, validations.events)


def newest_attempt(path: Path) -> int:
    """Return the number of the newest attempt in a job's event file; 0 if the file has no events."""
    numbers = (event.get("attempt") for chunk in read_chunks(path) for _, event in chunk.entries)
    return max((number for number in numbers if isinstance(number, int)), default=0)


def thin(points: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` evenly spaced points of a sequence, including the first and the last point.

    ``most`` is at least 2.

    >>> thin(range(11), 3)
    [0, 5, 10]
    """
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


class _Thinned:
    """Events in order of their steps, of which every n-th and the newest are kept, so that memory stays bounded."""

    def __init__(self) -> None:
        self._kept: list[Event] = []
        self._newest: Event | None = None  # unless it is among those kept
        self._stride = 1
        self._count = 0

    @property
    def events(self) -> list[Event]:
        return self._kept if self._newest is None else [*self._kept, self._newest]

    def add(self, event: Event) -> None:
        """Add an event in place of those of its step and of later ones."""
        self.cut(event["step"])
        is_kept = self._count % self._stride == 0
        self._count += 1
        self._newest = None if is_kept else event
        if is_kept:
            self._kept.append(event)
        if len(self._kept) > MAX_EVENTS:
            # MAX_EVENTS is even: the last one stays.
            del self._kept[1::2]
            self._stride *= 2

    def cut(self, step: int) -> None:
        """Remove the events of a step and of later ones."""
        if self._newest is not None and self._newest["step"] >= step:
            self._newest = None
        while self._kept and self._kept[-1]["step"] >= step:
            self._kept.pop()
            self._count = len(self._kept) * self._stride


START = "0-0"

_CONNECTIONS = 8


class StateChange(NamedTuple):
    id: str
    status: Status
    attempt: int
    worker: str

    @property
    def time_ms(self) -> int:
        """Time of the status change in milliseconds since 1970, by the clock of the Redis server."""
        return int(self.id.partition("-")[0])


class StateChanges(NamedTuple):
    """Status changes of a job, none later than ``clock_ms``, and its status now; None if it does not exist."""

    changes: list[StateChange]
    status: Status | None
    clock_ms: int

    @property
    def over(self) -> bool:
        """Whether no further status change will follow; a failed or cancelled job is over, too."""
        return self.status in TERMINAL


class ChangeReader:
    """Asynchronous reader of the status changes of jobs, on up to 8 connections."""

    def __init__(self, settings: Settings) -> None:
        # Readers share a few connections; a reader that gets none in time reports an outage.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            broker_url(settings),
            max_connections=_CONNECTIONS,
            timeout=settings.broker_timeout_s,
            decode_responses=True,
            socket_timeout=settings.broker_timeout_s,
            socket_connect_timeout=settings.broker_timeout_s,
            health_check_interval=25,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.05), 1),
        )
        self._client = redis.asyncio.Redis.from_pool(pool)
        self._prefix = settings.key_prefix

    async def after(self, job_id: str, change_id: str = START) -> StateChanges:
        """Return the status and the changes after ``change_id``; raise ``BrokerDown``."""
        with translate_redis_errors():
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.xrange(f"{self._prefix}changes:{job_id}", min=f"({change_id}")
                pipe.hget(f"{self._prefix}job:{job_id}", "status")
                pipe.time()
                entries, status, (seconds, microseconds) = await pipe.execute()
        return StateChanges(
            [StateChange(key, Status(it["status"]), int(it["attempt"]), it["worker"]) for key, it in entries],
            Status(status) if status is not None else None,
            seconds * 1000 + microseconds // 1000,
        )

    async def close(self) -> None:
        await self._client.aclose()
