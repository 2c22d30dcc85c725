"""`snf score --dataset`: every image of a dataset, scored by the workers of a service into one Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.cli.common import USAGE, fail, print_json
from app.cli.job_tables import outcome
from app.cli.progress import labelled_bar
from app.cli.remote import followed, service, this_machine

if TYPE_CHECKING:
    from app.jobs.schemas import JobView


def score_dataset(
    dataset: str, out: Path, model: str, alpha: float | None, *, url: str | None, key: str | None, as_json: bool
) -> tuple[int, int]:
    """Submits a job, follows it and fetches its table; how many images were scored, and how many are anomalies."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise fail(f"{out} is a folder or in none that exists, --out wants a file", USAGE)
    with service(this_machine(url), key) as client, labelled_bar() as bar:

        def observe(event: dict[str, Any]) -> None:
            if event["event"] == "metrics":
                bar(f"scoring {dataset}", event["step"], event["steps"])

        job = client.jobs.score(dataset, model, parameters={} if alpha is None else {"alpha": alpha})
        typer.echo(f"job {job.id}; Ctrl-C ends the watching alone, `snf jobs download` fetches its table", err=True)
        job = followed(client, job.id, observe)
        client.jobs.download(job.id, out)
    _tell(job, out, as_json)
    counts = job.result or {}
    return counts["images"] - counts["errors"], counts["anomalies"]


def _tell(job: JobView, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"job": job.id, "model": job.model, "out": str(out), **(job.result or {})})
    else:
        typer.echo(f"{outcome(job)}; the table is in {out}")
