from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Path as PathParameter
from fastapi import Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, PlainTextResponse

from snf_app.http.errors import Problem
from snf_app.http.openapi import answer, sends
from snf_app.http.router import Router
from snf_app.jobs.endpoints import ExistingJob, folder_of
from snf_app.jobs.service import curve_answer
from snf_app.state import SettingsDep
from snf_client.schemas.evaluations import EvaluationReport
from snf_client.schemas.jobs import CalibrationResult, JobResult, LimitResult, Preview, Previews
from snf_client.schemas.recommendations import RecommendationRecord
from snf_client.schemas.training import CurvePoint, TrainingCurve
from snf_models.evaluation.report import CONTENT_SECURITY_POLICY
from snf_worker.jobs.events import FILE, Event, read_curve, thin
from snf_worker.jobs.record import RECOMMENDATION, REPORT_HTML, REPORT_JSON, SCORES, WITH_RESULT
from snf_worker.settings import Settings

# Plain functions: the router runs them in threads, where job store and disk may block.
router = Router("/v1/jobs", "jobs", uses_job_store=True)

COLUMNS = (*CurvePoint.model_fields, "validation_bits_per_dim")
PARQUET = "application/vnd.apache.parquet"
HTML = "text/html"
TAIL, MAX_TAIL = 500, 10_000  # lines of a log by default and at most
MAX_LOG_BYTES = 2**20
_PREVIEW = re.compile(r"step-([0-9]{8,12})\.png")


class CurveQuery(BaseModel):
    format: Literal["json", "csv"] = Field("json", description="`csv`: one row per step.")
    points: int | None = Field(None, ge=2, description="Most points, evenly spread, for charts. Default: all.")


class ResultQuery(BaseModel):
    format: Literal["json", "html"] | None = Field(
        None, description="Format of an evaluation's report. By default the header `Accept` decides."
    )


@router.get(
    "/{job_id}/metrics",
    "Show the training curve of a job",
    errors=(404,),
    response_model=TrainingCurve,
    responses={200: answer("The curve.", texts={"text/csv": f"{','.join(COLUMNS)}\n"})},
)
def get_job_metrics(job: ExistingJob, settings: SettingsDep, query: Annotated[CurveQuery, Query()]) -> Response:
    """Return the learning curve of a training job, such as bits per dimension by step, as JSON or CSV.

    `points` thins the metrics of training steps; validations are always complete.
    """
    curve = read_curve(folder_of(job.id, settings) / FILE)
    # Encoded in this thread: a long curve would block the event loop.
    if query.format == "csv":
        points = curve.points if query.points is None else thin(curve.points, query.points)
        return Response(_table(points, curve.validations), media_type="text/csv")
    shown, validations = curve_answer(curve, query.points)
    found = TrainingCurve(job=job.id, points=shown, validations=validations)
    return Response(found.model_dump_json(), media_type="application/json")


@router.get("/{job_id}/log", "Show the end of a job's log", errors=(404,), response_class=PlainTextResponse)
def get_job_log(
    job: ExistingJob,
    settings: SettingsDep,
    tail: Annotated[int, Query(ge=1, le=MAX_TAIL, description="Most lines, counted from the end.")] = TAIL,
) -> PlainTextResponse:
    """Return the last lines of a job's log file as plain text.

    The text has at most 1 MiB, and begins with a whole line, unless the last line alone is longer. It is empty before
    the first line is written.
    """
    try:
        with (folder_of(job.id, settings) / "trainer.log").open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            # An additional byte shows whether the first line is whole.
            file.seek(max(0, size - MAX_LOG_BYTES - 1))
            text = file.read(MAX_LOG_BYTES + 1)
    except FileNotFoundError:
        text = b""
    if len(text) > MAX_LOG_BYTES:
        text = text.partition(b"\n")[2] or text[1:]
    lines = io.BytesIO(text).readlines()
    return PlainTextResponse(b"".join(lines[-tail:]).decode("utf-8", errors="replace"))


@router.get("/{job_id}/samples", "List the previews of a training", errors=(404,))
def list_job_samples(job: ExistingJob, settings: SettingsDep) -> Previews:
    """List the sample images that were drawn from the model during a training job, by training step.

    Each step has one grid of images, with the path of its PNG.
    """
    names = (path.name for path in _samples(job.id, settings).glob("step-*.png"))
    steps = sorted(int(match[1]) for match in map(_PREVIEW.fullmatch, names) if match)
    samples = [Preview(step=step, url=f"/v1/jobs/{job.id}/samples/{step}") for step in steps]
    return Previews(job=job.id, samples=samples)


@router.get(
    "/{job_id}/samples/{step}",
    "Show a preview of a training",
    errors=(404,),
    **sends("A grid of samples.", "image/png"),
)
def get_job_sample(
    job: ExistingJob,
    settings: SettingsDep,
    step: Annotated[int, PathParameter(ge=0, lt=10**12, description="The step it was drawn at.", examples=[40])],
) -> Response:
    """Return the images that a training job drew from its model at one step, as a PNG grid.

    The model draws them from the same random latents at every step.
    """
    try:
        content = (_samples(job.id, settings) / f"step-{step:08d}.png").read_bytes()
    except FileNotFoundError:
        detail = f"job {job.id} keeps no preview of step {step}"
        raise Problem("sample-not-found", detail, pointer="/path/step") from None
    # An attempt that returns to a checkpoint draws later previews again.
    return Response(content, media_type="image/png", headers={"Cache-Control": "no-cache"})


@router.get(
    "/{job_id}/result",
    "Show the result of a job",
    errors=(404, 409),
    response_model=CalibrationResult | LimitResult | JobResult | EvaluationReport | RecommendationRecord,
    responses={200: answer("The result of the job.", PARQUET, texts={HTML: "<!doctype html> ..."})},
)
def get_job_result(
    job: ExistingJob, settings: SettingsDep, request: Request, query: Annotated[ResultQuery, Query()]
) -> CalibrationResult | LimitResult | JobResult | FileResponse:
    """Return what a job produced, in a format that depends on its type: JSON, Parquet or HTML.

    A training returns the registered model version, a calibration the new calibration, a limit the new detection limit,
    whose curves are under `limit` of its links. A scoring returns a Parquet file
    with a row per image: `path`, `log_likelihood`, `bits_per_dim`, `p_value`, `score`, `statistic`, `is_anomaly`,
    `reason`, `reasons`, `box`, `warning`, `error`, `error_detail`, `model`, `calibration`, `alpha`, `dataset`;
    `bits_per_dim` is null for a density of features; the metadata `snf.kind` of the file says which density it is. An
    evaluation returns its report as JSON or as a page (`Accept: text/html` or
    `format=html`). A recommendation returns what each family of models reached, with a proposal.

    409 `job-has-no-result`, with the state of the job, if it has neither succeeded nor is `partial`. 409
    `result-at-output`, with the `output`, for a scoring that has one: its Parquet files are there.
    """
    if job.status not in WITH_RESULT or job.result is None:
        reason = f": {job.error['detail']}" if job.finished and job.error else ""
        raise Problem(
            "job-has-no-result",
            f"job {job.id} is {job.status.value}{reason}",
            extensions={"job_status": job.status.value, "job_error": job.error},
        )
    if "output" in job.result:
        raise Problem(
            "result-at-output",
            f"job {job.id} has written its scores to {job.result['output']}: read the Parquet files there, or fetch "
            f"them into one table with `snf jobs download {job.id}`",
            extensions={"job_status": job.status.value, "job_error": None, "output": job.result["output"]},
        )
    if job.type == "score":
        path = folder_of(job.id, settings) / SCORES
        return FileResponse(path, media_type=PARQUET, filename=f"{job.id}.parquet")
    if job.type == "recommend":
        return FileResponse(folder_of(job.id, settings) / RECOMMENDATION, media_type="application/json")
    if job.type == "evaluate":
        accept = request.headers.get("accept", "")
        return _report(job.id, settings, query.format or ("html" if HTML in accept else "json"))
    model = f"/v1/models/{job.result['ref']}"
    links = {"job": f"/v1/jobs/{job.id}", "model": model, "score": f"{model}/score", "samples": f"{model}/samples"}
    if job.type == "limit":
        address = f"{model}/limits/{job.result['limit']}"
        return LimitResult(**job.result, links=links | {"limit": address, "chart": f"{address}/chart"})
    if job.type != "calibrate":
        return JobResult(**job.result, links=links)
    number = job.result["calibration"]
    links |= {"calibration": f"{model}/calibrations/{number}", "active": f"{model}/calibrations/active"}
    return CalibrationResult(**job.result, links=links)


def _report(job_id: str, settings: Settings, form: Literal["json", "html"]) -> FileResponse:
    folder = folder_of(job_id, settings)
    # The same address has two formats.
    headers = {"Vary": "Accept"}
    if form == "json":
        return FileResponse(folder / REPORT_JSON, media_type="application/json", headers=headers)
    headers |= {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "X-Content-Type-Options": "nosniff"}
    return FileResponse(folder / REPORT_HTML, media_type=HTML, headers=headers)


def _samples(job_id: str, settings: Settings) -> Path:
    return folder_of(job_id, settings) / "samples"


def _table(points: list[Event], validations: list[Event]) -> str:
    rows: dict[int, Event] = {point["step"]: point for point in points}
    for event in validations:
        row = rows.get(event["step"], {key: event.get(key) for key in ("step", "time", "attempt")})
        rows[event["step"]] = {**row, "validation_bits_per_dim": event.get("bits_per_dim")}
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows[step] for step in sorted(rows))
    return text.getvalue()
