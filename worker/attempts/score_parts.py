"""Storage of the parts of a bulk scoring job. This module does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from models.bulk.output import Output, open_output, plan_at
from models.bulk.part_tables import PartSummary
from models.bulk.plan import BulkPlan, OpenPlan, Parts, join_plan, open_plan, stored_plan
from models.locations.allowed import allowed_location
from models.locations.location import Location
from worker.attempts.attempt import JobSpec
from worker.private_home import user_umask
from worker.settings import Settings


@dataclass(frozen=True)
class TableParts(OpenPlan):
    """Score files that are joined into one table in the job's folder."""

    table: Path

    def finish(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> PartSummary:
        """Check and join all score files into one table. This is quick and cannot be stopped."""
        return self.merge(self.table)


@dataclass(frozen=True)
class OutputParts(Output):
    """Score files at the job's output location, not merged. Local files get the user's umask."""

    def write(self, index: int, table: pa.Table) -> PartSummary:
        with user_umask():
            return super().write(index, table)

    def finish(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> PartSummary:
        with user_umask():
            return super().finish(should_stop, progress)


def begin_output(spec: JobSpec, settings: Settings, plan: BulkPlan) -> OutputParts:
    """Open the output location of a new or continued job; raises as :func:`begin_parts`."""
    location = _output(spec, settings)
    with user_umask():
        open_output(location, plan)
    return OutputParts(location, plan)


def plan_at_output(spec: JobSpec, settings: Settings) -> BulkPlan | None:
    """Return the plan stored at the job's output location, or None; raise ``LocationRefused``."""
    return plan_at(_output(spec, settings))


def stored_job_plan(folder: Path, spec: JobSpec, settings: Settings) -> BulkPlan | None:
    """Return the plan stored in the job's folder or at its output location, or None."""
    return stored_plan(folder) if spec.output is None else plan_at_output(spec, settings)


def begin_parts(folder: Path, table: Path, spec: JobSpec, settings: Settings, plan: BulkPlan) -> Parts:
    """Open the storage of score files; raise ``LocationRefused``, ``PlanDiffers`` or ``OutputTaken``."""
    output = None if spec.output is None else begin_output(spec, settings, plan)
    open_plan(folder, plan)  # also where the parts are elsewhere: assistants compare their plan with this one
    return TableParts(folder, plan, table) if output is None else output


def join_parts(folder: Path, table: Path, spec: JobSpec, settings: Settings, plan: BulkPlan) -> Parts:
    """Open the storage of a job that another process has begun; raise ``PlanDiffers`` if its plan is not ``plan``."""
    join_plan(folder, plan)
    return TableParts(folder, plan, table) if spec.output is None else OutputParts(_output(spec, settings), plan)


def _output(spec: JobSpec, settings: Settings) -> Location:
    """Return the output of a job, checked as when it was queued: since then a link there may lead elsewhere."""
    assert spec.output is not None
    return allowed_location(spec.output, settings.allowed_locations, settings.home)
