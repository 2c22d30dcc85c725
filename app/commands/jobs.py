# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf jobs`: the jobs of a running service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.common import OK, SERVICE, Json, Key, fail, print_json, settings
from app.commands.live import duration, live_view
from worker.jobs import Status

if TYPE_CHECKING:
    from app.commands.remote import Remote

jobs = typer.Typer(help="List, follow and control the jobs of a running service.", no_args_is_help=True)

ServiceUrl = Annotated[
    str | None, typer.Option("--url", envvar="SNF_URL", help="The service. Default: the one on this machine.")
]
JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


@jobs.command("list")
def list_jobs(
    status: Annotated[Status | None, typer.Option(help="Only jobs with this status.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most jobs to list.")] = 20,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    query = {"limit": limit} | ({"status": status.value} if status else {})
    page = _remote(url, key).call("GET", "/v1/jobs", params=query).json()
    if as_json:
        print_json(page)
        return
    from rich.console import Console
    from rich.table import Column, Table

    # A narrow terminal must not cut what other commands need.
    table = Table(Column("id", min_width=26), "status", "model", "dataset", "done", "ETA", "bits/dim")
    for job in page["jobs"]:
        bits = job["metrics"].get("bits_per_dim")
        eta = duration(job["progress"].get("eta_seconds")) if job["status"] == "running" else ""
        done = _percent(job)
        table.add_row(
            job["id"], job["status"], job["model"], job["dataset"], done, eta, f"{bits:.4f}" if bits is not None else ""
        )
    Console().print(table)


@jobs.command()
def show(job_id: JobId, url: ServiceUrl = None, key: Key = None) -> None:
    """Show a job as JSON."""
    print_json(_remote(url, key).call("GET", f"/v1/jobs/{job_id}").json())


@jobs.command()
def watch(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Follow a job until it is over; exit code 0 where it succeeded, 3 where not. Ctrl-C ends the watching alone."""
    from app.commands.follow import follow

    remote = _remote(url, key)
    end = None
    with live_view(as_json) as observe:
        for event in follow(remote, job_id):
            observe(event)
            end = event.get("status")
    if as_json:
        raise typer.Exit(OK if end == "succeeded" else SERVICE)
    job = remote.call("GET", f"/v1/jobs/{job_id}").json()
    if end != "succeeded":
        raise fail(f"job {job_id} {end}{': ' + job['error']['detail'] if job['error'] else ''}", SERVICE)
    typer.echo(outcome(job["result"]))


@jobs.command()
def metrics(
    job_id: JobId,
    as_csv: Annotated[bool, typer.Option("--csv", help="As a table, one row a step.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Show the training curve of a job, as JSON or CSV."""
    query = {"format": "csv" if as_csv else "json"}
    answer = _remote(url, key).call("GET", f"/v1/jobs/{job_id}/metrics", params=query)
    if as_csv:
        typer.echo(answer.text, nl=False)
    else:
        print_json(answer.json())


@jobs.command()
def log(
    job_id: JobId,
    tail: Annotated[int, typer.Option(min=1, max=2**20, help="Most bytes of it.")] = 64 * 1024,
    url: ServiceUrl = None,
    key: Key = None,
) -> None:
    """Show the end of what a job's training processes printed."""
    typer.echo(_remote(url, key).call("GET", f"/v1/jobs/{job_id}/log", params={"tail": tail}).text, nl=False)


@jobs.command()
def cancel(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job."""
    _ask("cancel", job_id, url, key, as_json)


@jobs.command()
def pause(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Pause a job; a running one writes a checkpoint first."""
    _ask("pause", job_id, url, key, as_json)


@jobs.command()
def resume(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Let a paused job go on from its checkpoint, first in line."""
    _ask("resume", job_id, url, key, as_json)


@jobs.command()
def retry(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Submit a failed or cancelled job anew; it goes on from the old one's checkpoint."""
    _ask("retry", job_id, url, key, as_json)


def _ask(what: str, job_id: str, url: str | None, key: str | None, as_json: bool) -> None:
    job = _remote(url, key).call("POST", f"/v1/jobs/{job_id}/{what}").json()
    if as_json:
        print_json(job)
        return
    asked = job["status"] in {"starting", "running"} and (job["cancel_requested"] or job["pause_requested"])
    typer.echo(f"{job['id']} is {job['status']}{', asked to stop' if asked else ''}")


def outcome(result: dict[str, Any]) -> str:
    """What a job that succeeded has made, in one line."""
    if "calibration" in result:
        return f"calibration {result['calibration']} of {result['ref']}, smallest alpha {result['smallest_p']:.4g}"
    if "ref" in result:
        return f"registered {result['ref']}"
    return f"scored {result['images']} images, {result['anomalies']} anomalies, {result['errors']} errors"


def _percent(job: dict[str, Any]) -> str:
    if job["status"] == "succeeded":
        return "100 %"
    done = job["progress"].get("fraction")
    return "" if done is None else f"{100 * done:.0f} %"


def _remote(url: str | None, key: str | None) -> Remote:
    from app.commands.remote import Remote
    from worker.launcher import address

    return Remote(url or address(settings()), key)
