"""Storage of the parts of a bulk scoring job, in the job's folder or at its output location.

This module does not import torch.
"""

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
    """Storage of a bulk scoring job's score files, which are joined into one table in the job's folder.

    There is one score file for each part (range of images).

    Args:
        table: The file of the table.
    """

    table: Path

    def finish(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> PartSummary:
        """Check and join all score files into one table; return counts of images, errors and anomalies.

        This is quick and cannot be stopped.
        """
        return self.merge(self.table)


@dataclass(frozen=True)
class OutputParts(Output):
    """Storage of a bulk scoring job's score files at the job's output location; the files are not merged.

    There is one file for each part (range of images).

    Files on this machine are created with the user's umask.
    """

    def write(self, index: int, table: pa.Table) -> PartSummary:
        """Write the scores of one range of images to a file; return counts of images, errors and anomalies.

        ``index`` is the number of the part; see :meth:`models.bulk.output.Output.write`.
        """
        with user_umask():
            return super().write(index, table)

    def finish(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> PartSummary:
        """Check that the score files of the bulk job are complete, and write a summary of their counts.

        See :meth:`models.bulk.output.Output.finish`.
        """
        with user_umask():
            return super().finish(should_stop, progress)


def begin_output(spec: JobSpec, settings: Settings, plan: BulkPlan) -> OutputParts:
    """Open the output location of a new or continued bulk scoring job, to write its score files there.

    Raises the errors of :func:`begin_parts`.
    """
    location = _output(spec, settings)
    with user_umask():
        open_output(location, plan)
    return OutputParts(location, plan)


def plan_at_output(spec: JobSpec, settings: Settings) -> BulkPlan | None:
    """Read the ``BulkPlan``, the inputs of a bulk scoring job, from the job's output location.

    Returns None if no plan is stored there.

    Raises:
        LocationRefused: The output is no location that callers may name.
    """
    return plan_at(_output(spec, settings))


def stored_job_plan(folder: Path, spec: JobSpec, settings: Settings) -> BulkPlan | None:
    """Return the stored inputs of a bulk scoring job as a ``BulkPlan``, or None if there are none.

    It is in ``folder`` or at the output of the job; see :func:`plan_at_output`.
    """
    return stored_plan(folder) if spec.output is None else plan_at_output(spec, settings)


def begin_parts(folder: Path, table: Path, spec: JobSpec, settings: Settings, plan: BulkPlan) -> Parts:
    """Open the storage for the score files of a bulk scoring job, to start or continue the job.

    Args:
        folder: Folder of the parts, unless the job has an output.
        table: File that they are joined into then.
        spec: Specification of the attempt.
        settings: Settings with the locations that callers may name.
        plan: Plan of the job.

    Raises:
        LocationRefused: The output is no location that callers may name: the settings, or a link there, have changed.
        PlanDiffers: The output holds scores of another model or of other images.
        OutputTaken: The output holds other files.
    """
    output = None if spec.output is None else begin_output(spec, settings, plan)
    open_plan(folder, plan)  # also where the parts are elsewhere: assistants compare their plan with this one
    return TableParts(folder, plan, table) if output is None else output


def join_parts(folder: Path, table: Path, spec: JobSpec, settings: Settings, plan: BulkPlan) -> Parts:
    """Join a bulk scoring job that another process has begun: open the storage of its score files.

    Arguments are those of :func:`begin_parts`. Raises ``LocationRefused``, and ``PlanDiffers`` if the plan stored in
    ``folder`` is not ``plan``.
    """
    join_plan(folder, plan)
    return TableParts(folder, plan, table) if spec.output is None else OutputParts(_output(spec, settings), plan)


def _output(spec: JobSpec, settings: Settings) -> Location:
    """Return the output of a job, checked as when it was queued: since then a link there may lead elsewhere."""
    assert spec.output is not None
    return allowed_location(spec.output, settings.allowed_locations, settings.home)
