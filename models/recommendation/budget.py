"""Time budget of a comparison of model families, with its stored plan and progress reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.atomic_files import write_atomically
from models.training.interrupted import Interrupted
from models.training.loop import Observer

log = logging.getLogger(__name__)

FILE = "plan.json"
DEFECTS_SHARE, LEAST_DEFECTS_SHARE = 0.45, 0.25
"""Largest and smallest share of the budget for the defects: a speed measured in a quiet moment promises too much."""
MIN_PIXEL_SHARE = 0.2
"""Share of the budget that the pixel flow gets, however long the rest takes."""
MARGIN_SHARE = 0.05
"""Share for the last validation, the frozen flow, and the fit of the anomaly statistics."""
EARLY_SHARE = 0.4
"""Share of all sizes that is expected to be measured: a kind is done with the first size that every family misses."""
MIN_GOOD = 60
"""Good images below which time is saved by leaving out defects instead."""
REPORT_S = 0.5
"""Shortest time between two reports of the progress."""


class ComparisonPlan(BaseModel):
    """Stored plan of a model comparison: how many images to use and how long to train.

    The numbers follow from measured speeds.

    It also has the time spent so far. Another attempt continues with the same decisions.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    digest: str = Field(description="Digest of dataset and parameters.")
    spent: float = Field(0.0, ge=0, description="Seconds of earlier attempts.")
    share: float | None = Field(None, gt=0, le=1, description="Share of the usual numbers of images.")
    pixel_seconds: float | None = Field(None, ge=0, description="Time for the training of the pixel flow.")
    good: int | None = Field(None, ge=1, description="Number of good images.")
    notes: list[str] = Field([], description="What was reduced.")


class Budget:
    """Time budget and progress reporter of a comparison of model families.

    It also stores the plan of the comparison on disk, so that an interrupted comparison can continue with it.

    Args:
        seconds: The whole budget.
        digest: A digest of what the comparison depends on. A stored plan of another digest is ignored.
        folder: The folder of the plan.
        observe: Function that receives the events.
        should_stop: Returns true to end the comparison early.
        began: Start by ``time.monotonic``; None for now.
    """

    def __init__(
        self,
        seconds: float,
        digest: str,
        folder: Path,
        observe: Observer,
        should_stop: Callable[[], bool],
        began: float | None = None,
    ) -> None:
        self.seconds = seconds
        self._path = folder / FILE
        self.plan = _read(self._path, digest)
        self._began = (time.monotonic() if began is None else began) - self.plan.spent
        self._observe, self._should_stop = observe, should_stop
        self._fraction, self._reported = 0.0, 0.0

    @property
    def spent(self) -> float:
        """Seconds spent on the model comparison so far.

        The seconds of earlier attempts are included.
        """
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds left until the deadline of the model comparison; negative after the deadline."""
        return self.seconds - self.spent

    def share_out(self, per_image: float, reference: int, cells: int, good: int) -> tuple[float, int]:
        """Divide a comparison's remaining time between training the pixel flow and testing all models.

        In the tests, the models are to find defects that are added to good images.

        Returns the seconds to train the pixel flow, and the number of good images that get defects.

        Args:
            per_image: Seconds that all densities together take for an image.
            reference: The number of reference images, which pass once.
            cells: Sizes of all kinds of defects; of each, all good images pass at most.
            good: The number of good images.
        """
        passes = 1 + EARLY_SHARE * cells
        most = DEFECTS_SHARE * self.seconds
        good = min(good, max(MIN_GOOD, int(most / (passes * per_image))))
        defects = min(max(passes * per_image * good, LEAST_DEFECTS_SHARE * self.seconds), most)
        left = self.left - defects - per_image * reference - MARGIN_SHARE * self.seconds
        return max(left, MIN_PIXEL_SHARE * self.seconds), good

    def save(self) -> None:
        """Store the plan of the model comparison on disk, so that the comparison can be continued later.

        The plan includes the seconds spent so far.

        A checkpoint is reported, from which another attempt can continue.
        """
        self.plan.spent = self.spent
        write_atomically(self._path, self.plan.model_dump_json().encode())
        self._observe({"event": "checkpoint", "step": int(100 * self._fraction)})

    def begin(self, phase: str) -> None:
        """Report to the observer that the model comparison begins a new phase, such as training.

        Progress is then reported as by :meth:`tick`, which also ends the comparison if a stop was requested.
        """
        self._observe({"event": "log", "message": phase})
        self.tick()

    def note(self, text: str) -> None:
        """Add a message to the notes of the model comparison's plan, and report it to the observer.

        Nothing happens if the plan has this note already.
        """
        if text not in self.plan.notes:
            self.plan.notes.append(text)
            self._observe({"event": "log", "message": text})

    def tick(self, seconds_left: float | None = None) -> None:
        """End the model comparison if a stop was requested; otherwise report the progress of the comparison.

        There is a report every half second at most. Raises ``Interrupted`` where the comparison is to stop.

        Args:
            seconds_left: How long the rest takes; by default until the deadline.
        """
        if self._should_stop():
            self.save()
            raise Interrupted("asked to stop while comparing")
        self.report(seconds_left)

    def report(self, seconds_left: float | None = None) -> None:
        """Report the progress of the model comparison to the observer, at most once every half second.

        Unlike :meth:`tick`, this never raises ``Interrupted``.
        """
        if time.monotonic() - self._reported >= REPORT_S:
            self._report(max(self.left if seconds_left is None else min(seconds_left, self.left), 0.0))

    def finish(self) -> None:
        """Report to the observer that the model comparison is finished."""
        self._report(0.0)

    def _report(self, left: float) -> None:
        self._reported = time.monotonic()
        spent = max(self.spent, 1e-9)
        self._fraction = max(self._fraction, spent / (spent + left))
        step = int(100 * self._fraction)
        self._observe({"event": "metrics", "step": step, "steps": 100, "progress": self._fraction, "eta_seconds": left})


def _read(path: Path, digest: str) -> ComparisonPlan:
    if path.is_file():
        try:
            plan = ComparisonPlan.model_validate_json(path.read_bytes())
        except ValidationError as error:
            log.warning("starting again, because %s is damaged: %s", FILE, error.errors()[0]["msg"])
        else:
            if plan.digest == digest:
                return plan
    return ComparisonPlan(digest=digest)
