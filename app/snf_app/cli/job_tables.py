"""Tables of jobs, and their outcomes in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from snf_app.cli.live import LearningCurves
from snf_app.cli.output import Cell, TableColumn, duration, print_facts, print_table, text_of
from snf_client.schemas.jobs import JobList, JobView
from snf_client.schemas.training import RunDetail, TrainingCurve
from snf_models.texts import value_text
from snf_runtime.errors import JudgedCounts


def published_line(
    ref: str, *, live: int | None, unfit: Sequence[str], options: str = "", smallest_p: float | None = None
) -> str:
    """Return a one-line message which says that a new model version was registered, and which version is live.

    It has the reasons for an unfit version, and the command that makes the version live unless it is.

    Args:
        ref: The version as ``name:version``.
        live: The version that is live; None if there is none, or none is known.
        unfit: Why it is unfit; empty for a fit version.
        options: The option for suggested commands that ``url_option`` returns.
        smallest_p: The smallest p-value that it can give, which is the smallest false-alarm rate; None: not known.

    >>> published_line("parts:3", live=2, unfit=(), smallest_p=1 / 651)
    'registered parts:3, smallest alpha 0.001536; parts:2 stays live. To switch: snf models alias parts live 3'
    """
    name, _, version = ref.partition(":")
    reasons = "; ".join(unfit)
    registered = f"registered {ref}" + ("" if smallest_p is None else f", smallest alpha {smallest_p:.4g}")
    if str(live) == version:
        return f"published as {ref} and live, although it is unfit: {reasons}" if unfit else registered
    stays = "" if live is None else f"; {name}:{live} stays live"
    command = f"snf models alias {name} live {version}{options}"
    if unfit:
        return f"published as {ref}, not live: {reasons}{stays}. To make it live all the same: {command}"
    return f"{registered}{stays or ', not live'}. To switch: {command}"


def print_outcome(result: dict[str, Any], options: str = "") -> None:
    """Print the result of a job in words, in red for an unfit model version."""
    typer.secho(outcome(result, options), fg=typer.colors.RED if result.get("unfit") else None)


STYLES = {
    "running": "cyan",
    "succeeded": "green",
    "partial": "yellow",
    "failed": "bold red",
    "cancelled": "dim",
    "paused": "yellow",
}

MOMENT = "%Y-%m-%d %H:%M:%S UTC"
ENDED_WITH_RESULT = ("succeeded", "partial")


def _status(job: JobView) -> Text:
    return Text(job.status, STYLES.get(job.status, ""))


def _eta(job: JobView) -> str:
    return duration(job.progress.get("eta_seconds")) if job.status == "running" else ""


def _bits(job: JobView) -> str:
    return text_of(job.metrics.get("bits_per_dim"), ".4f")


def _percent(job: JobView) -> str:
    if job.status in ENDED_WITH_RESULT:
        return "100 %"
    fraction = job.progress.get("fraction")
    return "" if fraction is None else f"{100 * fraction:.0f} %"


JOBS = (
    TableColumn("id", lambda job: job.id),
    TableColumn("type", lambda job: job.type),
    TableColumn("status", _status),
    TableColumn("model", lambda job: job.model or "recommendation", fold=20),
    TableColumn("dataset", lambda job: job.dataset, fold=12, drop=3),
    TableColumn("done", lambda job: "" if job.status in ENDED_WITH_RESULT else _percent(job), drop=4),
    TableColumn("ETA", _eta, drop=2),
    TableColumn("bits/dim", _bits, drop=1),
)


def print_jobs(page: JobList) -> None:
    print_table(JOBS, page.jobs)
    for job in page.jobs:
        if job.waits_for:
            typer.echo(f"{job.id} waits: {job.waits_for}")


def print_job(job: JobView, options: str = "") -> None:
    """Print a job as a table of two columns; suggested commands end with ``options`` of ``url_option``."""
    result = job.result or {}
    facts: dict[str, Cell] = {
        "status": _status(job),
        "model": job.model,
        "dataset": job.dataset,
        "preset": job.preset if job.type == "train" else "",
        "parameters": ", ".join(f"{name} {value_text(value)}" for name, value in job.parameters.items()),
        "queue": job.queue if job.place_in_line is None else f"{job.queue}, {job.place_in_line} before it",
        "waits": job.waits_for,
        "done": _percent(job),
        "step": "{step} of {steps}".format_map(job.progress) if {"step", "steps"} <= job.progress.keys() else "",
        "ETA": _eta(job),
        "bits/dim": _bits(job),
        "expected to take": _expected(job),
        "attempts": job.attempts,
        "checkpoint": "" if job.checkpoint_step is None else f"step {job.checkpoint_step}",
        "queued": text_of(job.created_at, MOMENT),
        "started": text_of(job.started_at, MOMENT),
        "finished": text_of(job.finished_at, MOMENT),
        "retry of": job.retry_of,
        "error": f"{job.error['title']}: {job.error['detail']}" if job.error else "",
        "outcome": Text(outcome(result, options), "bold red" if result.get("unfit") else "")
        if job.status in ENDED_WITH_RESULT
        else "",
    }
    print_facts(facts, f"{job.type} {job.id}")


def print_curve(curve: TrainingCurve | RunDetail) -> None:
    """Draw bits/dim and reconstruction error by step, or print a note if there is too little to draw."""
    if len(curve.points) < 2:
        Console().print("no curve yet: it starts with the second report of the training")
        return
    if all(point.bits_per_dim is None for point in curve.points):
        Console().print("no curve: no report has bits/dim (a model of features is fitted in closed form)")
        return
    curves = LearningCurves()
    for kind, points in (("metrics", curve.points), ("validation", curve.validations)):
        for point in points:
            curves.add({"event": kind, **point.model_dump()})
    Console().print(curves)
    Console().print(f"steps {curve.points[0].step} to {curve.points[-1].step}")


def outcome(result: dict[str, Any], options: str = "") -> str:
    """Return the result of a job in words, such as ``registered digits:2``; suggested commands end with ``options``."""
    if "proposal" in result:
        proposed = result["proposal"] and f"proposes {result['proposal']} ({result['preset']})"
        return f"{proposed or 'proposes no family'}: {'; '.join(result['reasons'])}"
    if "limit" in result:
        return limit_outcome(result)
    if "calibration" in result:
        return calibration_outcome(result, options)
    if "ref" in result:
        # Jobs of earlier versions have no list of reasons and no live version.
        unfit = [reason["detail"] for reason in result.get("unfit", ())]
        live = result.get("live_version", result["version"] if result.get("live") else None)
        smallest = result.get("smallest_p")
        return published_line(result["ref"], live=live, unfit=unfit, options=options, smallest_p=smallest)
    if "anomalies" in result:
        place = f"; the scores are in {result['output']}" if "output" in result else ""
        return f"{job_counts(result).text}{place}"
    return "succeeded"


def calibration_outcome(result: dict[str, Any], options: str = "") -> str:
    """Return the new calibration, its smallest false-alarm rate, and whether and why it is in use."""
    number, ref, reason = result["calibration"], result["ref"], result.get("reason")
    made = f"calibration {number} of {ref}, smallest alpha {result['smallest_p']:.4g}"
    if result.get("active") is None:
        return made
    if result["active"]:
        return f"{made}; it is in use now" + (f" ({reason})" if reason else "")
    return f"{made}; it is not in use: {reason}\n`snf models use-calibration {ref} {number}{options}` puts it to use"


def limit_outcome(result: dict[str, Any]) -> str:
    """Return the smallest size found for each kind of defect, in pixels or ``none``, or why none is known."""
    made = f"detection limit {result['limit']} of {result['ref']} at alpha {result['alpha']:.4g}"
    if result["not_determinable"]:
        return f"{made} is not determinable: {result['not_determinable']}"
    sizes = (f"{label}: {'none' if size is None else f'{size} pixels'}" for label, size in result["sizes"].items())
    return f"{made}; {'; '.join(sizes)}"


def job_counts(result: dict[str, Any]) -> JudgedCounts:
    """Return the counts of the result of a bulk scoring job; 0 for other jobs."""
    errors = result.get("errors", 0)
    return JudgedCounts(result.get("images", 0) - errors, result.get("anomalies", 0), errors)


def _expected(job: JobView) -> str:
    if job.estimate is None or (job.estimate.seconds is None and job.status != "queued"):
        return ""
    return "unknown until it runs" if job.estimate.seconds is None else duration(job.estimate.seconds)
