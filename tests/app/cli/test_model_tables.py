"""`snf models show` for people, of a service that is newer or older than the command."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_app.cli.model_tables import print_model, print_models
from snf_client.schemas.models import ModelDetail, ModelPage, ModelSummary, UnfitReason
from snf_runtime.errors import FAILED
from tests.app.conftest import shipped_detail
from tests.client.scripted_server import Answer, scripted


@pytest.fixture
def shown() -> ModelDetail:
    return shipped_detail()


def test_unfit_models_are_said_to_be_so(
    shown: ModelDetail, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    reason = UnfitReason(code="diverged", detail="diverged: the last validation is worse")
    print_model(shown.model_copy(update={"unfit": [reason]}))
    assert "diverged: the last validation is worse" in capsys.readouterr().out
    facts: dict[str, Any] = {"name": "m", "versions": [1], "read_only": False, "architecture": "a", "kind": "density"}
    facts |= {"image_shape": [1, 8, 8], "test_bits_per_dim": 2.0, "size_bytes": 1, "unfit": [reason]}
    models = [
        ModelSummary(**facts, state="unfit", reason="no version of m is live", aliases={}),
        ModelSummary(**facts, state="ready", reason=None, aliases={"live": 1}),
    ]
    print_models(ModelPage(models=models))
    said = capsys.readouterr().out
    assert "none" in said
    assert "no live version: diverged" in said
    assert "ready, unfit: diverged" in said


@pytest.mark.parametrize("change", [{"format_version": 3}, {"architecture": {}}], ids=["format", "architecture"])
def test_a_manifest_of_another_version_is_no_traceback(
    shown: ModelDetail, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as raised:
        print_model(shown.model_copy(update={"manifest": shown.manifest | change}))
    assert raised.value.exit_code == 3
    assert "the manifest of mnist-snf-glow:1 is of another version of this program" in capsys.readouterr().err


def test_an_export_takes_no_path_from_the_service(
    shown: ModelDetail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    named = shown.model_copy(update={"name": "../outside"}).model_dump(mode="json")
    with scripted(Answer(200, named), Answer(200, b"content")) as server:
        done = CliRunner().invoke(cli, ["models", "export", "digits", "--url", server.url])
    assert (done.exit_code, "expected 1 to 64 of a-z" in done.stderr) == (FAILED, True)
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == []
