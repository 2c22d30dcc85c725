"""Calls that list, show and delete the records of training runs."""

from __future__ import annotations

from snf_client.request import Call, path, query, read_json, read_nothing
from snf_client.schemas.training import RunDetail, RunList
from snf_client.transport import Resource, S, operation


class RunsResource(Resource[S]):
    """API calls that list, show and delete the records of training runs.

    They are the runs of jobs and those of ``snf train`` on the machine of the service.

    A record stays when its job is deleted.
    """

    @operation
    def list(self, *, after: str | None = None, limit: int = 50) -> Call[RunList]:
        """Return one page of the records of training runs, newest first, with a cursor for the next page.

        Args:
            after: ``next`` of the page before.
            limit: Most runs in the page, at most 200.
        """
        return Call("GET", path("runs"), read_json(RunList), params=query(after=after, limit=limit))

    @operation
    def get(self, run_id: str, *, points: int | None = None) -> Call[RunDetail]:
        """Return the record of one training run by its id, with its learning curve.

        Args:
            run_id: Id of the run; that of the job for a job.
            points: Most points of the curve, evenly spread; None for all.
        """
        return Call("GET", path("runs", run_id), read_json(RunDetail), params=query(points=points))

    @operation
    def delete(self, run_id: str) -> Call[None]:
        """Delete the record and the learning curve of a training run.

        Its job and its model stay. Raises ``Conflict`` while the model is being trained.
        """
        return Call("DELETE", path("runs", run_id), read_nothing)
