"""The parts of a bulk scoring job: in the folder of the job, or at its output. Free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.bulk.output import Output, open_output
from models.bulk.plan import BulkPlan, OpenPlan, Parts, join_plan, open_plan
from models.bulk.table import PartSummary
from models.locations.location import Location
from worker.attempts.attempt import JobSpec


@dataclass(frozen=True)
class TableParts(OpenPlan):
    """Parts that are joined into one table in the folder of the job.

    Args:
        table: The file of the table.
    """

    table: Path

    def finish(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> PartSummary:
        """Check every part, and join them into the table; return its counts. It takes a moment, without a stop."""
        return self.merge(self.table)


def begin_parts(folder: Path, table: Path, spec: JobSpec, plan: BulkPlan) -> Parts:
    """Return the parts of a job, where a process that runs it begins or goes on.

    Args:
        folder: Folder of the parts, unless the job has an output.
        table: File that they are joined into then.
        spec: Specification of the attempt.
        plan: Plan of the job.

    Raises:
        PlanDiffers: The output holds scores of another model or of other images.
        OutputTaken: The output holds other files.
    """
    output = None if spec.output is None else open_output(Location(spec.output), plan)
    open_plan(folder, plan)  # also where the parts are elsewhere: assistants compare their plan with this one
    return TableParts(folder, plan, table) if output is None else output


def join_parts(folder: Path, table: Path, spec: JobSpec, plan: BulkPlan) -> Parts:
    """Return the parts of a job that another process runs. Raises ``PlanDiffers`` if its plan is not ``plan``."""
    join_plan(folder, plan)
    return TableParts(folder, plan, table) if spec.output is None else Output(Location(spec.output), plan)
