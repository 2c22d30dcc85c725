"""Output folder of a bulk scoring. Readers of ``*.parquet`` skip the plan and the summary, which begin with ``_``."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO, IOBase
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pydantic import ValidationError

from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.tables import (
    DamagedPart,
    PartSummary,
    labelled,
    merge_parts,
    open_table,
    part_bytes,
    summary_of,
)
from snf_models.disk import LEFTOVER, remove_leftovers
from snf_models.errors import Interrupted, LocationNotFound, OutputTaken, PartFailed, PlanDiffers
from snf_models.locations.location import Location

PLAN, SUMMARY = "_plan.json", "_summary.json"
PART = re.compile(r"part-(\d{6})\.parquet")
MAX_PLAN_BYTES = 2**20
LEFTOVER_SECONDS = 3600
"""Age from which a temporary file belongs to a killed process; others may be writing parts now."""
READERS = 16
"""Footers of parts that are read at once; each is a request to a server."""
PART_PLAN, PART_ERRORS, PART_ANOMALIES = "snf.plan", "snf.part_errors", "snf.part_anomalies"
"""Keys of the metadata of a part: the digest of its plan, and its counts, so that a summary reads footers alone."""
ROUNDS = 3
"""Times that the parts are scored and checked at most."""


class PartsDamaged(OutputTaken):
    """Result files are missing, damaged or from another scoring."""

    def __init__(self, problems: dict[int, str]) -> None:
        self.problems = problems
        first, more = next(iter(problems.values())), len(problems) - 1
        super().__init__(first + (f", and {more} other parts" if more else ""))


@dataclass(frozen=True)
class Output:
    """Output of a bulk scoring, which can be pickled."""

    location: Location
    plan: BulkPlan

    def part(self, index: int) -> Location:
        return self.location.child(f"part-{index:06d}.parquet")

    def missing(self) -> list[int]:
        """Return the indices of missing parts, by one listing of the location."""
        if self.location.local_path is not None:
            remove_leftovers(self.location.local_path, LEFTOVER_SECONDS)
        written = set(map(_index, _files(self.location)))
        return [index for index in range(self.plan.parts) if index not in written]

    def write(self, index: int, table: pa.Table) -> PartSummary:
        """Write a part whole. Equal rows give equal bytes."""
        summary = summary_of(table)
        metadata = self.plan.metadata | {
            PART_PLAN: self.plan.digest,
            PART_ERRORS: str(summary.errors),
            PART_ANOMALIES: str(summary.anomalies),
        }
        self.part(index).write(part_bytes(labelled(table, metadata), metadata))
        return summary

    def finish(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> PartSummary:
        """Check all parts by their footers, and write the counts; raise ``PartsDamaged`` or ``Interrupted``."""
        total, problems = PartSummary(0, 0, 0), {}
        with ThreadPoolExecutor(READERS, thread_name_prefix="footers") as pool:
            checks = [pool.submit(self._check, index) for index in range(self.plan.parts)]
            try:
                for index, check in enumerate(checks):
                    if should_stop():
                        raise Interrupted("the check of the parts was stopped")
                    try:
                        total += check.result()
                    except DamagedPart as problem:
                        problems[index] = str(problem)
                    progress(index + 1, len(checks))
            finally:
                pool.shutdown(cancel_futures=True)
        if problems:
            raise PartsDamaged(problems)
        content = {"plan": self.plan.digest, "parts": self.plan.parts, **asdict(total)}
        self.location.child(SUMMARY).write(json.dumps(content, indent=1).encode())
        return total

    def files(self) -> Iterator[BinaryIO]:
        """Yield the parts as files in memory; raise ``PartsDamaged`` for one that is damaged or of other scores."""
        for index in range(self.plan.parts):
            try:
                file = BytesIO(self.part(index).read())
                self._counts(index, file)
            except (DamagedPart, LocationNotFound) as problem:
                raise PartsDamaged({index: str(problem)}) from problem
            yield file

    def merge(self, table: Path, expected: PartSummary | None = None) -> PartSummary:
        """Join the parts, checked as they are read; raise ``PartsDamaged``, ``OutputTaken`` for unexpected counts."""
        index = -1

        def files() -> Iterator[BinaryIO]:
            nonlocal index
            for index, file in enumerate(self.files()):  # noqa: B007
                yield file

        try:
            return merge_parts(files(), table, self.plan.metadata, expected)
        except DamagedPart as problem:
            raise PartsDamaged({index: f"{self.part(index)} {problem}"}) from problem

    def delete(self, parts: Iterable[int]) -> None:
        for index in parts:
            self.part(index).delete()

    def _check(self, index: int) -> PartSummary:
        try:
            with self.part(index).open() as file:
                return self._counts(index, file)
        except LocationNotFound as error:
            raise DamagedPart(f"{self.part(index)} is missing") from error

    def _counts(self, index: int, file: IOBase) -> PartSummary:
        """Return the counts from a part's footer; raise ``DamagedPart``."""
        label, rows = str(self.part(index)), self.plan.images_in([index])
        try:
            with open_table(file) as opened:
                footer = opened.metadata
        except DamagedPart as problem:
            raise DamagedPart(f"{label} {problem}") from problem
        if footer.num_rows != rows:
            raise DamagedPart(f"{label} holds {footer.num_rows} rows, expected {rows}")
        stored = footer.metadata or {}
        if stored.get(PART_PLAN.encode()) != self.plan.digest.encode():
            raise DamagedPart(f"{label} holds other scores")
        return PartSummary(footer.num_rows, int(stored[PART_ERRORS.encode()]), int(stored[PART_ANOMALIES.encode()]))


def complete(
    output: Output,
    score: Callable[[list[int]], None],
    finish: Callable[[], PartSummary],
    note: Callable[[str], None],
) -> PartSummary:
    """Score missing parts until ``finish`` raises no ``PartsDamaged``; raise ``PartFailed`` after three rounds."""
    problem = ""
    for _ in range(ROUNDS):
        if missing := output.missing():
            score(missing)
        try:
            return finish()
        except PartsDamaged as damaged:
            output.delete(damaged.problems)
            problem = str(damaged)
            note(f"deleted, to be scored again: {problem}")
    raise PartFailed(f"{problem}; so it was {ROUNDS} times: does another process write there, or is the disk damaged?")


def open_output(location: Location, plan: BulkPlan, *, force: bool = False) -> Output:
    """Open a new or resumed output; raise ``PlanDiffers`` without ``force``, or ``OutputTaken`` for other files."""
    output, stored = Output(location, plan), plan_at(location)
    if stored == plan:
        _require_no_more_parts(location, plan)
        return output
    if stored is not None and not force:
        raise _differs(location, stored, plan)
    parts = _own_parts(location)
    if force:
        # The plan goes last, so that parts always belong to the plan that is there.
        for name in (*parts, SUMMARY, PLAN):
            location.child(name).delete()
    elif parts and plan_at(location) is None:  # otherwise another process began meanwhile
        raise OutputTaken(f"{location} holds {parts[0]}; expected no files, or parts of these scores")
    location.child(PLAN).write_new(plan.model_dump_json(indent=1).encode())
    first = plan_at(location)
    if first is None:
        raise OutputTaken(f"{location} holds a {PLAN} that is damaged or of another version; expected no files")
    if first != plan:
        raise _differs(location, first, plan)
    return output


def stored_output(location: Location, digest: str | None = None) -> Output:
    """Return the output of a stored plan, of ``digest`` if given; raise ``OutputTaken``, ``PlanDiffers``."""
    stored = plan_at(location)
    if stored is None:
        raise OutputTaken(f"expected scores at {location}, got no {PLAN} there")
    if digest not in (None, stored.digest):
        raise PlanDiffers(f"{location} holds {stored.label} now: expected a plan of SHA-256 {digest}")
    return Output(location, stored)


def plan_at(location: Location) -> BulkPlan | None:
    """Return None if there is no plan, or one that is damaged or of another version."""
    try:
        with location.child(PLAN).open() as file:
            return BulkPlan.model_validate_json(file.read(MAX_PLAN_BYTES))
    except (LocationNotFound, ValidationError):
        return None


def _files(location: Location) -> Iterator[str]:
    """Yield the names of the files at a location that are not hidden from readers of tables."""
    try:
        for file in location.files():
            if not file.name.startswith("_") and not LEFTOVER.fullmatch(file.name):
                yield file.name
    except LocationNotFound:  # a folder of this machine that the first file creates
        return


def _index(name: str) -> int | None:
    match = PART.fullmatch(name)
    return int(match[1]) if match else None


def _own_parts(location: Location) -> list[str]:
    """Return the names of the parts of any plan; raise ``OutputTaken`` at the first other file."""
    parts = []
    for name in _files(location):
        if _index(name) is None:  # the rest may be millions of files
            raise OutputTaken(f"{location} holds {name}; expected no files, or parts of these scores")
        parts.append(name)
    return parts


def _require_no_more_parts(location: Location, plan: BulkPlan) -> None:
    """Raise ``OutputTaken`` for a Parquet file that readers would take for scores."""
    for name in _files(location):
        if name.endswith(".parquet") and _index(name) not in range(plan.parts):
            raise OutputTaken(f"{location} holds {name}; expected no Parquet files but parts of these scores")


def _differs(location: Location, stored: BulkPlan, plan: BulkPlan) -> PlanDiffers:
    return PlanDiffers(f"{location} holds {stored.label}; expected {plan.label}, or no files")


def open_scratch(folder: Path, plan: BulkPlan) -> Output:
    """Open a folder of this program, in which whatever is not of the plan is deleted."""
    location = Location.parse(str(folder))
    if plan_at(location) != plan:
        shutil.rmtree(folder, ignore_errors=True)
    return open_output(location, plan)
