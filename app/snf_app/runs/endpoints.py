from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel, Field

from snf_app.access.permissions import MayAdminister, MayRead
from snf_app.http.errors import responses
from snf_app.http.router import Router
from snf_app.jobs.endpoints import JOB_ID
from snf_app.jobs.service import curve_answer
from snf_app.state import SettingsDep
from snf_client.schemas.training import RunDetail, RunList
from snf_worker.jobs.runs import RunStore


def run_list(store: RunStore, limit: int, after: str | None = None) -> RunList:
    """Return a page of runs older than the run ``after``, newest first."""
    runs = store.list(limit + 1, after)
    return RunList(runs=runs[:limit], next=runs[limit - 1].id if len(runs) > limit else None)


def run_detail(store: RunStore, run_id: str, points: int | None = None) -> RunDetail:
    """Return a run with at most ``points`` points of its curve, evenly spread; raise ``RunNotFound``."""
    run = store.get(run_id)
    shown, validations = curve_answer(store.curve(run_id), points)
    links = {"self": f"/v1/runs/{run.id}"}
    if run.origin == "job":
        links["job"] = f"/v1/jobs/{run.id}"
    if run.result is not None:
        links["model"] = f"/v1/models/{run.result.ref}"
    return RunDetail(run=run, points=shown, validations=validations, links=links)


# Plain functions: the framework runs them in threads, where the disk may block.
router = Router(prefix="/v1/runs", tags=["jobs"])

RunId = Annotated[str, Path(description="The run's id.", examples=["06f8m2q1x3z4c5v6b7n8m9k0j1"])]


class RunQuery(BaseModel):
    after: str | None = Field(None, pattern=JOB_ID, description="`next` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Most runs in one page.")


@router.get(
    "",
    operation_id="list_runs",
    summary="List training runs, newest first",
    dependencies=[MayRead],
    responses=responses(401, 422, 500),
)
def list_runs(settings: SettingsDep, query: Annotated[RunQuery, Query()]) -> RunList:
    """List training runs with their parameters and results, newest first.

    They are the runs of jobs and those of `snf train` on this machine.

    A run stays when its job is deleted.
    """
    return run_list(RunStore(settings.run_records_dir), query.limit, query.after)


@router.get(
    "/{run_id}",
    operation_id="get_run",
    summary="Show a training run with its curve",
    response_model=RunDetail,
    dependencies=[MayRead],
    responses=responses(401, 404, 422, 500),
)
def get_run(
    run_id: RunId,
    settings: SettingsDep,
    points: Annotated[int | None, Query(ge=2, description="Most points of the curve. Default: all.")] = None,
) -> Response:
    """Show a training run with its parameters, result and learning curve.

    The curve has metrics by step, such as bits/dim. `points` limits the number of steps shown; validations are always
    complete.
    """
    detail = run_detail(RunStore(settings.run_records_dir), run_id, points)
    # Encoded in this thread: a long curve would block the event loop.
    return Response(detail.model_dump_json(), media_type="application/json")


@router.delete(
    "/{run_id}",
    operation_id="delete_run",
    summary="Delete the record of a training run",
    dependencies=[MayAdminister],
    status_code=204,
    response_class=Response,
    responses=responses(401, 404, 409, 422, 500, 507),
)
def delete_run(run_id: RunId, settings: SettingsDep) -> None:
    """Delete the record and the learning curve of a training run, even if the record is damaged.

    The job and the model of the run stay.

    409 while it is being trained.
    """
    RunStore(settings.run_records_dir).remove(run_id)
