"""The training curve of a job, read from the file of its events."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from worker.jobs.journal import Event, read_chunks

T = TypeVar("T")


@dataclass(frozen=True)
class CurveEvents:
    """Training curve of a job: its ``metrics`` and ``validation`` events in order of steps, without repeated steps.

    Steps are strictly increasing.

    Attributes:
        points: Events ``metrics``.
        validations: Events ``validation``.
    """

    points: list[Event] = field(default_factory=list)
    validations: list[Event] = field(default_factory=list)


def read_curve(path: Path) -> CurveEvents:
    """Return the training curve in the event file at ``path``, without steps that a later attempt repeated.

    An attempt that resumes at a checkpoint repeats the steps after it. The events of earlier attempts about these steps
    are dropped.
    """
    curve = CurveEvents()
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
                    _cut(curve.points, step + 1)
                    _cut(curve.validations, step + 1)
                case "metrics":
                    _cut(curve.points, step)
                    curve.points.append(event)
                case "validation":
                    _cut(curve.validations, step)
                    curve.validations.append(event)
    return curve


def newest_attempt(path: Path) -> int:
    """Return the number of the newest attempt in the event file at ``path``; 0 if it has no events."""
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


def _cut(points: list[Event], step: int) -> None:
    """Remove the events of ``step`` and later steps from the end of ``points``."""
    while points and points[-1]["step"] >= step:
        points.pop()
