"""The training curve of a job, as its journal tells it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from worker.jobs.journal import Event, read_chunks

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingCurve:
    """The events `metrics` and `validation` of the run that led to where the job is now; steps rise strictly."""

    points: list[Event] = field(default_factory=list)
    validations: list[Event] = field(default_factory=list)


def read_curve(path: Path) -> TrainingCurve:
    """Reads the curve from a journal.

    An attempt that resumed at a checkpoint did the steps after it anew, so what earlier attempts told of them goes.
    """
    curve = TrainingCurve()
    newest = 0
    for chunk in read_chunks(path):
        for _, event in chunk.entries:
            attempt, step = event.get("attempt"), event.get("step")
            # A trainer that lost its lease may write until it learns so; its steps are not the job's.
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


def thin(points: Sequence[T], most: int) -> list[T]:
    """At most `most` (2 or more) of the points, evenly spread, the first and the last among them.

    >>> thin(range(11), 3)
    [0, 5, 10]
    """
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def _cut(points: list[Event], step: int) -> None:
    """Drops what was told of `step` and later ones."""
    while points and points[-1]["step"] >= step:
        points.pop()
