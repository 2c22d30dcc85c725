"""The command `snf models import-published`: a registered, calibrated model, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from app.cli.main import cli
from models.flows.flow import Flow
from models.loading.load_flows import load_artifact
from models.registry.registry import Registry
from snf_runtime.judged_counts import USAGE
from tests.models.published.layers import Published, glow


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", "import-published", *arguments])


@pytest.fixture
def published() -> Published:
    torch.manual_seed(0)
    return glow(width=4)


@pytest.fixture
def checkpoint(published: Published, tmp_path: Path) -> str:
    path = tmp_path / "glow_mnist.tar"
    torch.save({"model_state_dict": published.state_dict(), "epoch": 1}, path)
    return str(path)


@pytest.mark.timeout(120)
def test_an_import_is_a_calibrated_model_that_is_live_if_it_is_fit(
    own_home: Path, checkpoint: str, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNF_ENGINE", "torch")  # starts in the least time
    done = run("old", checkpoint, "--data", "mnist-mini", "--json")
    assert done.exit_code == 0, done.output
    event = json.loads(done.stdout.splitlines()[-1])
    assert (event["ref"], event["live"]) == ("old:1", False)
    assert {reason["code"] for reason in event["unfit"]} == {"hardly-trained", "learned-inverse-off"}

    version = Registry(own_home / "home" / "registry").resolve("old:1")
    training = version.manifest.training
    assert (training.preset, training.steps, training.dataset) == ("published", 0, "mnist-mini")
    assert training.imported is not None
    assert training.imported.startswith("glow_mnist.tar of the published code, SHA-256 ")
    assert training.config.keys() == {"image_size", "automatic_side", "fit", "colour", "levels", "pixel_transform"}
    card = (version.path / "card.md").read_text()
    assert "| weights | imported from glow_mnist.tar of the published code" in card
    assert "| trained on | not recorded; calibrated and tested on mnist-mini" in card
    shown = " ".join(CliRunner().invoke(cli, ["models", "show", "old:1"]).stdout.split())
    assert "trained on not recorded; calibrated and tested on mnist-mini" in shown
    assert "training imported from glow_mnist.tar of the published code" in shown
    assert "closed form" not in shown

    flow = load_artifact(version.path).flow
    assert isinstance(flow, Flow)
    images = 256 * torch.rand(3, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            flow.double()(images).log_likelihood, published.double().log_likelihood(images), rtol=1e-6, atol=0
        )


def test_what_is_missing_or_wrong_is_said(own_home: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        done = run("old", *arguments)
        assert done.exit_code == USAGE, done.output
        return " ".join(done.stderr.split())

    assert "Missing option '--data'" in refused(checkpoint)
    assert "max_steps: it has no effect on published" in refused(checkpoint, "-d", "mnist-mini", "--set", "max_steps=3")
    text = refused(checkpoint, "-d", "mnist-mini", "--set", "colour=rgb")
    assert "The checkpoint cannot be imported: glow_mnist.tar: module 5: expected 3 channels, or 12 after a" in text
    monkeypatch.setenv("SNF_URL", "http://127.0.0.1:1")
    assert "works on this machine alone" in refused(checkpoint, "-d", "mnist-mini")
    assert not (own_home / "home" / "registry" / "old").exists()
