"""Time budget of a comparison, with its stored plan and progress reports."""

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
    """Decisions by measured speeds, with which another attempt continues."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    digest: str = Field(description="Digest of dataset and parameters.")
    spent: float = Field(0.0, ge=0, description="Seconds of earlier attempts.")
    share: float | None = Field(None, gt=0, le=1, description="Share of the usual numbers of images.")
    pixel_seconds: float | None = Field(None, ge=0, description="Time for the training of the pixel flow.")
    good: int | None = Field(None, ge=1, description="Number of good images.")
    notes: list[str] = Field([], description="What was reduced.")


class Budget:
    """Budget of ``seconds`` from ``began``, by ``time.monotonic``. A stored plan of another digest is ignored."""

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
        """Seconds, those of earlier attempts included."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.seconds - self.spent

    def share_out(self, per_image: float, reference: int, cells: int, good: int) -> tuple[float, int]:
        """Return the seconds to train the pixel flow, and the number of good images that get defects."""
        passes = 1 + EARLY_SHARE * cells
        most = DEFECTS_SHARE * self.seconds
        good = min(good, max(MIN_GOOD, int(most / (passes * per_image))))
        defects = min(max(passes * per_image * good, LEAST_DEFECTS_SHARE * self.seconds), most)
        left = self.left - defects - per_image * reference - MARGIN_SHARE * self.seconds
        return max(left, MIN_PIXEL_SHARE * self.seconds), good

    def save(self) -> None:
        """Store the plan with the seconds spent, and report a checkpoint."""
        self.plan.spent = self.spent
        write_atomically(self._path, self.plan.model_dump_json().encode())
        self._observe({"event": "checkpoint", "step": int(100 * self._fraction)})

    def begin(self, phase: str) -> None:
        """Report a new phase; raise as :meth:`tick`."""
        self._observe({"event": "log", "message": phase})
        self.tick()

    def note(self, text: str) -> None:
        """Add a new note to the plan and report it."""
        if text not in self.plan.notes:
            self.plan.notes.append(text)
            self._observe({"event": "log", "message": text})

    def tick(self, seconds_left: float | None = None) -> None:
        """Report the progress; raise ``Interrupted`` where a stop was requested."""
        if self._should_stop():
            self.save()
            raise Interrupted("asked to stop while comparing")
        self.report(seconds_left)

    def report(self, seconds_left: float | None = None) -> None:
        """Report the progress twice a second at most. It never raises ``Interrupted``."""
        if time.monotonic() - self._reported >= REPORT_S:
            self._report(max(self.left if seconds_left is None else min(seconds_left, self.left), 0.0))

    def finish(self) -> None:
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
