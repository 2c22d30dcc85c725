from __future__ import annotations

import json
import os
from typing import Any

import typer

from snf_app.cli.common import INTERRUPTED, fail, url_option
from snf_app.cli.job_tables import is_unfit, outcome
from snf_app.cli.live import live_view
from snf_app.cli.new_version import print_published
from snf_app.cli.remote import follow_job, service
from snf_runtime.errors import USAGE


def train_on_service(
    data: str, name: str, options: dict[str, Any], url: str, key: str | None, detach: bool, as_json: bool
) -> None:
    """Queue a training and show it, unless ``detach``; Ctrl-C exits with 130 and leaves the job, 3 if it failed."""
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
