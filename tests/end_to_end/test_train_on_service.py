"""`snf train --url`: a job of a service, with the view, the last line and the exit codes of a training here."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from snf_app.cli.common import INTERRUPTED
from snf_runtime.errors import FAILED
from tests.end_to_end.support.jobs import FEW_IMAGES, TRAINING
from tests.end_to_end.support.service import await_job, environment, snf
from tests.support.paths import ROOT
from tests.support.programs import interruptible

COMMAND = ("train", "--data", "mnist-mini", "--preset", "snf-glow-tiny")


def settings(parameters: dict[str, object]) -> list[str]:
    return [part for name, value in parameters.items() for part in ("--set", f"{name}={value}")]


def test_a_job_of_the_service_is_followed_to_the_last_line_of_a_training_here(home: Path, house: httpx.Client) -> None:
    url = str(house.base_url)
    done = snf(home, *COMMAND, "--name", "there", *settings(TRAINING["parameters"]), url=url)  # as SNF_URL
    assert done.returncode == 0, done.stderr
    assert not (home / "registry" / "there").exists()
    first, *_, last = done.stdout.splitlines()
    assert last.startswith("published as there:1, not live: hardly trained")
    assert last.endswith("snf models alias there live 1")
    job = house.get(f"/v1/jobs/{first.split()[1].strip(';')}").json()
    assert job["result"]["ref"] == "there:1"
    assert job["parameters"] == TRAINING["parameters"], "numbers, and not their texts"
    assert any("bits/dim" in line for line in done.stdout.splitlines())


def test_an_interrupt_leaves_the_job_running_and_says_how_to_go_on(home: Path, house: httpx.Client) -> None:
    url = str(house.base_url)
    endless = settings(FEW_IMAGES | {"max_steps": 1_000_000})
    process = subprocess.Popen(
        interruptible("-m", "snf_app.cli.main", *COMMAND, "--name", "left", *endless, "--url", url),
        cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    job_id = process.stdout.readline().split()[1].strip(";")
    for line in process.stdout:
        if "bits/dim" in line:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED, error
    for verb in ("watch", "pause", "cancel"):
        assert f"snf jobs {verb} {job_id} --url {url}" in error
    # Events are there before the supervisor's next report.
    await_job(house, job_id, "running", seconds=30)
    house.post(f"/v1/jobs/{job_id}/cancel")
    await_job(house, job_id, "cancelled")
    watched = snf(home, "jobs", "watch", job_id, "--url", url)
    assert watched.returncode == FAILED


@pytest.mark.parametrize(("as_json", "line"), [((), "job {}"), (("--json",), '{{"event": "submitted", "job": "{}"}}')])
def test_a_detached_command_prints_the_id(home: Path, house: httpx.Client, as_json: tuple[str, ...], line: str) -> None:
    waiting = ("--device", "cuda")  # for one that the worker does not have
    done = snf(
        home, *COMMAND, "--name", "alone", *waiting, "--promote", "--detach", *as_json, "--url", str(house.base_url)
    )
    assert done.returncode == 0, done.stderr
    [job] = house.get("/v1/jobs", params={"limit": 1}).json()["jobs"]
    job_id = job["id"]
    assert (job["promote"], job["device"]) == (True, "cuda")
    assert done.stdout == line.format(job_id) + "\n"
    house.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
