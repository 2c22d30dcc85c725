"""Training runs, and the presets of trainings."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import BaseModel, Field

from snf_app.http.router import Router
from snf_app.jobs.endpoints import JOB_ID
from snf_app.jobs.service import curve_answer
from snf_app.state import SettingsDep
from snf_client.schemas.jobs import JobRequest
from snf_client.schemas.training import PresetList, PresetView, RunDetail, RunList, TrainingConfig
from snf_models.pipeline.presets import PRESETS, Preset
from snf_worker.jobs.runs import RunStore


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
router = Router("/v1/runs", "jobs")
presets_router = Router("/v1/presets", "jobs")

RunId = Annotated[str, Path(description="The run's id.", examples=["06f8m2q1x3z4c5v6b7n8m9k0j1"])]


class RunQuery(BaseModel):
    after: str | None = Field(None, pattern=JOB_ID, description="`next` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Most runs in one page.")


@router.get("", "List training runs, newest first")
def list_runs(settings: SettingsDep, query: Annotated[RunQuery, Query()]) -> RunList:
    """List training runs with their parameters and results, newest first.

    They are the runs of jobs and those of `snf train` on this machine.

    A run stays when its job is deleted.
    """
    runs = RunStore(settings.run_records_dir).list(query.limit + 1, query.after)
    more = len(runs) > query.limit
    return RunList(runs=runs[: query.limit], next=runs[query.limit - 1].id if more else None)


@router.get("/{run_id}", "Show a training run with its curve", errors=(404,), response_model=RunDetail)
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


@router.delete("/{run_id}", "Delete the record of a training run", role="admin", errors=(404, 409, 507))
def delete_run(run_id: RunId, settings: SettingsDep) -> None:
    """Delete the record and the learning curve of a training run, even if the record is damaged.

    The job and the model of the run stay.

    409 while it is being trained.
    """
    RunStore(settings.run_records_dir).remove(run_id)


@presets_router.get("", "List the presets")
async def list_presets() -> PresetList:
    """List the training presets, which are named model architectures.

    The answer also has the JSON Schema of a training job's `parameters`.
    """
    return _listing()


@cache
def _listing() -> PresetList:
    return PresetList(
        presets=[_view(preset) for preset in PRESETS.values()],
        default=JobRequest.model_fields["preset"].default,
        parameters=TrainingConfig.model_json_schema(),
    )


def _view(preset: Preset) -> PresetView:
    own, usual = preset.config({}), TrainingConfig()
    return PresetView(
        name=preset.name,
        purpose=preset.purpose,
        family=preset.family,
        linear=preset.linear,
        parameters={name: value for name, value in own.model_dump().items() if value != getattr(usual, name)},
        accepts=[name for name in TrainingConfig.model_fields if name in preset.parameters],
    )
