"""Queue of the parts of a bulk scoring that are still to be scored, with retries if a process fails."""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter, deque
from collections.abc import Sequence

from models.bulk.callbacks import Callbacks
from models.bulk.plan import BulkPlan
from models.disk_space import storage_error
from models.errors import ErrorKind, ModelsError, PartFailed

log = logging.getLogger(__name__)

TRANSIENT = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.NO_SPACE})
"""Kinds of errors that another process, or the same one later, may not meet."""


class PartQueue:
    """Queue from which processes take the parts of a bulk scoring job that are still to be scored.

    A process takes a part, and then finishes it or fails.

    Args:
        plan: The plan of the scoring.
        missing: The indices of the parts to score.
        attempts: Times that a part may fail, and that one process after the other may fail to load the model.
        callbacks: Gets the progress.
    """

    def __init__(self, plan: BulkPlan, missing: Sequence[int], attempts: int, callbacks: Callbacks) -> None:
        self._ranges = plan.ranges
        self._left = deque(missing)
        self._attempts = attempts
        self._callbacks = callbacks
        self._scored: dict[int, int] = {}  # images of each part under way
        self._failures: Counter[int] = Counter()
        self._failures_to_load = 0
        self._counted_at = float("-inf")

    @property
    def unfinished(self) -> int:
        """Number of parts of the bulk scoring that are waiting or being scored."""
        return len(self._left) + len(self._scored)

    @property
    def left(self) -> int:
        """Number of parts of the bulk scoring that still wait to be taken by a process."""
        return len(self._left)

    def take(self) -> int | None:
        """Take the next part from the queue and return its index, or None if no part is left."""
        if not self._left:
            return None
        part = self._left.popleft()
        self._scored[part] = 0
        return part

    def advance(self, part: int, scored: int) -> None:
        """Update how many images of a part have been scored, and report the change to the ``advance`` callback.

        ``scored`` counts from the start of the part, which a process must have taken.
        """
        more = scored - self._scored[part]
        self._scored[part] = scored
        if more:
            self._callbacks.advance(more)

    def finish(self, part: int) -> None:
        """Record that a process has scored a part and written its result file."""
        start, stop = self._ranges[part]
        self.advance(part, stop - start)
        del self._scored[part]
        self._failures_to_load = 0
        self._callbacks.part_written(stop - start)

    def loaded(self) -> None:
        """Record that a scoring process loaded the model, and reset the count of consecutive failed loads."""
        self._failures_to_load = 0

    def fail(self, part: int | None, began: float, error: ModelsError) -> None:
        """Record that a scoring process failed while it loaded the model or scored a part of the images.

        If it was scoring a part, and another attempt can help, the part goes back to the queue for another process.

        Failures to load count one after the other only: a process that loads the model, or finishes a part, ends the
        series. Processes that are lost together, such as those of one node, count once.

        Args:
            part: The part that the process was scoring; None where it was loading.
            began: Time of ``time.monotonic`` at which the process was started.
            error: Why it failed: ``PartFailed`` for its death and for an error that is none of ours.

        Raises:
            ModelsError: ``error``, with the images in its text, where another attempt is of no use or was the last one.
        """
        doing = "loading the model"
        if part is not None:
            start, stop = self._ranges[part]
            doing = f"images {start} to {stop - 1}"
        if not (error.kind in TRANSIENT or isinstance(error, PartFailed)):
            raise _prefixed(error, doing)
        log.warning("%s: %s", doing, error.detail)
        if part is None:
            if began > self._counted_at:
                self._counted_at = time.monotonic()
                self._failures_to_load += 1
            failures = self._failures_to_load
        else:
            self.advance(part, 0)
            del self._scored[part]
            self._left.appendleft(part)
            self._failures[part] += 1
            failures = self._failures[part]
        if failures >= self._attempts:
            raise _prefixed(error, f"{doing} failed {failures} times, the last time with")


def typed(error: Exception) -> ModelsError:
    """Return a ``ModelsError`` in place of any exception that a bulk scoring process raised.

    A ``ModelsError`` is returned as it is. Errors of a full or unwritable disk become ``StorageFull`` or
    ``StorageReadOnly``, and all others ``PartFailed``.
    """
    if isinstance(error, ModelsError):
        return error
    log.error("a part cannot be scored", exc_info=error)
    return storage_error(error) or PartFailed(f"{type(error).__name__}: {error}")


def _prefixed(error: ModelsError, doing: str) -> ModelsError:
    """Return an error of the same class whose text begins with what was being done."""
    longer = copy.copy(error)
    longer.detail = f"{doing}: {error.detail}"
    longer.args = (longer.detail,)
    return longer
