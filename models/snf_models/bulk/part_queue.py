"""Queue of the parts that are still to be scored, with retries if a process fails."""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter, deque
from collections.abc import Sequence

from snf_models.bulk.callbacks import Callbacks
from snf_models.bulk.plan import BulkPlan
from snf_models.disk import storage_error
from snf_models.errors import ErrorKind, ModelsError, PartFailed

log = logging.getLogger(__name__)

TRANSIENT = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.NO_SPACE})
"""Kinds of errors that another process, or the same one later, may not meet."""


class PartQueue:
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
        return len(self._left) + len(self._scored)

    @property
    def left(self) -> int:
        return len(self._left)

    def take(self) -> int | None:
        if not self._left:
            return None
        part = self._left.popleft()
        self._scored[part] = 0
        return part

    def advance(self, part: int, scored: int) -> None:
        """Report progress; ``scored`` counts from the start of the part."""
        more = scored - self._scored[part]
        self._scored[part] = scored
        if more:
            self._callbacks.advance(more)

    def finish(self, part: int) -> None:
        start, stop = self._ranges[part]
        self.advance(part, stop - start)
        del self._scored[part]
        self._failures_to_load = 0
        self._callbacks.part_written(stop - start)

    def loaded(self) -> None:
        """Reset the count of consecutive failed loads."""
        self._failures_to_load = 0

    def fail(self, part: int | None, began: float, error: ModelsError) -> None:
        """Return the part to the queue, or raise ``error`` if another attempt cannot help or none is left."""
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
    """Return any error as a ``ModelsError``: those of a disk as ``StorageFull`` or ``StorageReadOnly``."""
    if isinstance(error, ModelsError):
        return error
    log.error("a part cannot be scored", exc_info=error)
    return storage_error(error) or PartFailed(f"{type(error).__name__}: {error}")


def _prefixed(error: ModelsError, doing: str) -> ModelsError:
    longer = copy.copy(error)
    longer.detail = f"{doing}: {error.detail}"
    longer.args = (longer.detail,)
    return longer
