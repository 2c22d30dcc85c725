from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from snf_worker.jobs.event_file import Event, read_chunks

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
