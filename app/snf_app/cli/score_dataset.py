"""Tables of scores that jobs of a service write."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import typer

from snf_app.cli.common import error_messages, fail, print_json, url_option
from snf_app.cli.job_tables import job_counts
from snf_app.cli.out_file import ENDINGS, check_held, check_place
from snf_app.cli.output import labelled_bar
from snf_app.cli.score_output import JudgingModel, judging_model, print_notes
from snf_app.cli.service import follow_job, service, service_url
from snf_client import Client
from snf_client.schemas.jobs import JobView
from snf_models.bulk.output import stored_output
from snf_models.bulk.tables import PartSummary, convert_table
from snf_models.locations.location import Location
from snf_runtime.errors import USAGE, JudgedCounts
from snf_worker.process_setup import user_umask


def score_dataset(
    dataset: str,
    out: Path,
    model: str,
    alpha: float | None,
    *,
    url: str | None,
    key: str | None,
    force: bool,
    as_json: bool,
) -> JudgedCounts:
    """Score a dataset by a job of a service, save the table, and return the counts."""
    with service(service_url(url), key) as client, labelled_bar() as bar:
        judging = judging_model(model, client)
        check_held(out, judging, None, dataset=dataset, force=force)

        def observe(event: dict[str, Any]) -> None:
            if event["event"] == "metrics":
                bar(f"scoring {dataset}", event["step"], event["steps"])

        # The same version and calibration as those that the file was checked for.
        parameters: dict[str, Any] = {"calibration": judging.calibration}
        if alpha is not None:
            parameters["alpha"] = alpha
        job = client.jobs.score(dataset, judging.ref, parameters=parameters)
        download = f"snf jobs download {job.id}{url_option(url)}"
        typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job: `{download}` fetches its table", err=True)
        job = follow_job(client, job.id, observe)
        fetch_table(client, job.id, out)
    if as_json:
        print_json({"job": job.id, "model": job.model, "out": str(out), **(job.result or {})})
    else:
        typer.echo(f"the table is in {out}")
    print_notes(judging.warnings, to_stderr=True)
    return job_counts(job)


def download_table(client: Client, job: JobView, out: Path, *, force: bool) -> None:
    """Save a job's table; exit with code 2 for other jobs, a wrong ``out`` or, without ``force``, other content."""
    if job.type != "score":
        raise fail(f"expected a job of type score, which has a table; {job.id} is of type {job.type}", USAGE)
    check_place(out, ENDINGS)
    model = JudgingModel(job.model, int(job.parameters.get("calibration") or 0))
    check_held(out, model, None, dataset=job.dataset, force=force)
    output = (job.result or {}).get("output")
    if output is None:
        fetch_table(client, job.id, out)
    else:
        _fetch_parts(output, job, out)


def fetch_table(client: Client, job_id: str, out: Path) -> None:
    """Download a job's Parquet table, and convert it to the format of the ending of ``out``."""
    with user_umask():
        if out.suffix == ".parquet":
            client.jobs.download(job_id, out)
            return
        with tempfile.TemporaryDirectory(prefix="snf-table-") as folder:
            convert_table(client.jobs.download(job_id, Path(folder) / "scores.parquet"), out)


def _fetch_parts(url: str, job: JobView, out: Path) -> None:
    """Join the Parquet files that a scoring job wrote to a location into one table, read from this machine."""
    result = job.result or {}
    counts = PartSummary(result["images"], result["errors"], result["anomalies"])
    with error_messages(), user_umask():
        stored_output(Location(url), result["plan"]).merge(out.absolute(), counts)
