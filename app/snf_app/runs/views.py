"""Conversion of run records to API answers, for endpoints and commands."""

from __future__ import annotations

from snf_app.jobs.views import curve_answer
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
