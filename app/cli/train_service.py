"""Training as a job of a service: submission of the job, and display of its progress."""

from __future__ import annotations

import json
import os
from typing import Any

import typer

from app.cli.common import INTERRUPTED, fail, url_option
from app.cli.job_tables import is_unfit, outcome
from app.cli.live import live_view
from app.cli.new_version import print_published
from app.cli.remote import follow_job, service
from snf_runtime.judged_counts import USAGE


def train_on_service(
    data: str, name: str, options: dict[str, Any], url: str, key: str | None, detach: bool, as_json: bool
) -> None:
    """Submit a training job to a service, print its id, and show its progress until it ends.

    Ctrl-C ends the command and not the job, with exit code 130. Exit code 3: the job failed or was cancelled.

    Args:
        data: Dataset of the service.
        name: Name of the model.
        options: Further arguments of ``client.jobs.train``.
        url: Address of the service.
        key: API key.
        detach: Whether to return as soon as the job is queued.
        as_json: Whether to print JSON lines.
    """
    if "RANK" in os.environ:
        raise fail("expected no --url and no SNF_URL under torchrun, whose processes train by themselves", USAGE)
    with service(url, key) as client:
        job = client.jobs.train(data, name, **options)
        hint = "" if detach else "; Ctrl-C stops watching, not the job"
        typer.echo(json.dumps({"event": "submitted", "job": job.id}) if as_json else f"job {job.id}{hint}")
        if detach:
            return
        try:
            with live_view(as_json) as observe:
                job = follow_job(client, job.id, observe)
        except KeyboardInterrupt:
            there = url_option(url)
            raise fail(
                f"the job goes on. To follow it: snf jobs watch {job.id}{there}. To stop it: snf jobs pause "
                f"{job.id}{there}, or snf jobs cancel {job.id}{there}",
                INTERRUPTED,
            ) from None
        if not as_json:
            print_published(outcome(job, url_option(url)), unfit=is_unfit(job))
