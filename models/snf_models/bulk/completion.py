"""Scoring in rounds, until the result files of all parts pass a final check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from snf_models.errors import PartFailed

if TYPE_CHECKING:
    from snf_models.bulk.part_tables import PartSummary

ROUNDS = 3
"""Times that the parts are scored and checked at most."""


class DamagedPart(Exception):
    """The result file of a part is missing, damaged or from another scoring."""


class PartsDamaged(Exception):
    """Result files are missing, damaged or from another scoring. The final check has deleted them."""

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
    """Score missing parts until ``finish`` raises no ``PartsDamaged``; raise ``PartFailed`` after three rounds."""
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
