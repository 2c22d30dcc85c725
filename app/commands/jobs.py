# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf jobs`: the jobs of a running service."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.commands.common import Json, Key, print_json, settings

jobs = typer.Typer(help="List, show and cancel the jobs of a running service.", no_args_is_help=True)

ServiceUrl = Annotated[
    str | None, typer.Option("--url", envvar="SNF_URL", help="The service. Default: the one on this machine.")
]
JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


@jobs.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most jobs to list.")] = 20,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    page = _call("GET", "/v1/jobs", url, key, params={"limit": limit})
    if as_json:
        print_json(page)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "status", "model", "dataset", "step", "bits/dim")
    for job in page["jobs"]:
        bits = job["metrics"].get("bits_per_dim")
        step = job["progress"].get("step", "")
        table.add_row(job["id"], job["status"], job["model"], job["dataset"], str(step), f"{bits:.4f}" if bits else "")
    Console().print(table)


@jobs.command()
def show(job_id: JobId, url: ServiceUrl = None, key: Key = None) -> None:
    """Show a job as JSON."""
    print_json(_call("GET", f"/v1/jobs/{job_id}", url, key))


@jobs.command()
def cancel(job_id: JobId, url: ServiceUrl = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job."""
    job = _call("POST", f"/v1/jobs/{job_id}/cancel", url, key)
    if as_json:
        print_json(job)
    else:
        typer.echo(f"{job['id']} is {job['status']}{', asked to stop' if job['cancel_requested'] else ''}")


def _call(method: str, path: str, url: str | None, key: str | None, **options: Any) -> dict[str, Any]:
    from app.commands.remote import Remote
    from worker.launcher import address

    found: dict[str, Any] = Remote(url or address(settings()), key).call(method, path, **options).json()
    return found
