"""Bulk scoring in rounds, until the result files of all parts pass a final check.

Parts that turn out damaged are scored again, in at most three rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from models.errors import PartFailed

if TYPE_CHECKING:
    from models.bulk.part_tables import PartSummary

ROUNDS = 3
"""Times that the parts are scored and checked at most."""


class DamagedPart(Exception):
    """Raised if the result file of one part of a bulk scoring cannot be used.

    The file is missing, damaged or from another scoring; the message says which.
    """


class PartsDamaged(Exception):
    """Raised if result files of a bulk scoring job are missing, damaged or from another scoring.

    The final check of all parts deletes their files before it raises this error, so that the parts are scored again.

    Args:
        problems: What is wrong with each part, by its index.
    """

    def __init__(self, problems: Mapping[int, str]) -> None:
        self.problems = dict(problems)
        first, more = next(iter(problems.values())), len(problems) - 1
        super().__init__(first + (f", and {more} other parts" if more else ""))


def complete(
    missing: Callable[[], list[int]],
    score: Callable[[list[int]], None],
    finish: Callable[[], PartSummary],
    note: Callable[[str], None],
) -> PartSummary:
    """Score the missing parts of a bulk scoring job until every result file passes a check.

    Damaged parts are scored again, in at most three rounds. Returns the counts of images, errors and anomalies.

    Args:
        missing: Function that returns the indices of the missing parts.
        score: Function that scores parts by their indices. It is not called without one.
        finish: Function that checks all parts and returns their counts, or raises ``PartsDamaged``.
        note: Function that is called with a sentence about damaged parts.

    Raises:
        PartFailed: There were damaged parts each time.
    """
    problem = ""
    for _ in range(ROUNDS):
        if left := missing():
            score(left)
        try:
            return finish()
        except PartsDamaged as damaged:
            problem = str(damaged)
            note(f"deleted, to be scored again: {problem}")
    raise PartFailed(f"{problem}; so it was {ROUNDS} times: does another process write there, or is the disk damaged?")
