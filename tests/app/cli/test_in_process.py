"""Commands without ``--url``: the application of the service in their own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from snf_app.cli.in_process import URL, InProcessTransport
from snf_app.cli.main import COMMANDS, LazyCommands, cli
from snf_app.registry.model_pool import ModelPool
from snf_client import Client
from snf_models.datasets import DatasetStore
from snf_runtime.errors import USAGE
from snf_worker.settings import Settings
from tests.models.datasets.upload_files import mixed, source, zipped
from tests.support.paths import ROOT


def test_the_help_of_a_command_is_the_line_that_snf_lists() -> None:
    commands = LazyCommands(COMMANDS)
    for name, (_, line) in COMMANDS.items():
        assert (commands[name].help or "").split("\n\n")[0].replace("\n", " ") == line, name


def test_a_wrong_variable_that_an_import_reads_is_a_wrong_usage(own_home: Path) -> None:
    environment = os.environ | {"SNF_MAX_IMAGE_PIXELS": "abc"}
    command = [sys.executable, "-m", "snf_app.cli.main", "bulk", str(own_home), "--out", "scores"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    expected = "snf: expected SNF_MAX_IMAGE_PIXELS to be a whole number from 1 to 10^18, got abc\n"
    assert (done.returncode, done.stderr) == (USAGE, expected)


def test_the_local_user_needs_no_key_and_reading_writes_nothing(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted((own_home / "home").rglob("*"))
    monkeypatch.setenv("SNF_API_KEYS", "a-key-of-at-least-32-characters-x")
    for command in (["models", "--json"], ["models", "card", "mnist-snf-glow"], ["runs"], ["datasets"], ["presets"]):
        done = CliRunner().invoke(cli, command)
        assert (done.exit_code, done.stderr) == (0, "")
    names = [model["name"] for model in json.loads(CliRunner().invoke(cli, ["models", "--json"]).stdout)["models"]]
    assert "mnist-snf-glow" in names
    assert sorted((own_home / "home").rglob("*")) == before


def test_a_dataset_is_deleted_although_no_broker_answers(own_home: Path) -> None:
    store = DatasetStore(own_home / "home" / "datasets")
    store.create("photos", [source(own_home / "uploads", zipped(mixed()))])
    done = CliRunner().invoke(cli, ["datasets", "delete", "photos", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"deleted": "photos"})
    assert done.stderr == "snf: the job store does not answer; a queued job that uses photos will fail\n"


def test_an_unexpected_error_is_raised_and_bodies_are_streamed(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of the program")

    transport = InProcessTransport(Settings(home=own_home / "home"))
    with Client(URL, transport=transport) as client, httpx.Client(base_url=URL, transport=transport) as http:
        pieces = iter([b'{"version', b'": 1, "more": 2}'])
        refused = http.put("/v1/models/m/aliases/a", content=pieces, headers={"Content-Type": "application/json"})
        assert (refused.status_code, "/body/more" in refused.text) == (422, True)
        monkeypatch.setattr(ModelPool, "find", broken)
        with pytest.raises(ZeroDivisionError):
            client.models.get("mnist-snf-glow")
