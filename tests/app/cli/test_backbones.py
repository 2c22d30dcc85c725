"""The command `snf backbones`: what it prints, its exit codes, and that it is quick where nothing is to be done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_models.features.backbones import DESCRIPTION, LITE0, Backbone, BackboneStore
from tests.support.backbones import TINY, tiny_onnx
from tests.support.paths import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNF_BACKBONES", str(tmp_path / "backbones"))
    return tmp_path / "backbones"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name a network in a file and its description."""
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return ["--onnx", str(tmp_path / "tiny.onnx"), "--description", str(tmp_path / "tiny.json")]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["backbones", *arguments])


def test_the_built_in_backbone_is_added_once(folder: Path) -> None:
    assert json.loads(run("--json").stdout) == {"backbones": []}
    added = run("add", "efficientnet-lite0")
    assert (added.exit_code, added.stdout.split(",")[0]) == (0, "added efficientnet-lite0"), added.output
    again = run("add", "efficientnet-lite0")
    assert (again.exit_code, "there is already efficientnet-lite0" in again.stdout) == (0, True)
    assert json.loads(run("add", "efficientnet-lite0", "--json").stdout)["added"] is False
    assert run("add", "efficientnet-lite0", "--quiet").output == ""
    listed = json.loads(run("list", "--json").stdout)["backbones"]
    assert [Backbone.model_validate(backbone) for backbone in listed] == [LITE0]


def test_a_file_is_added_listed_and_shown(folder: Path, files: list[str], tmp_path: Path) -> None:
    added = run("add", "tiny", *files, "--json")
    assert added.exit_code == 0, added.output
    assert json.loads(added.stdout)["added"] is True
    assert "tiny" in run("list").stdout
    shown = run("show", "tiny").stdout
    words = " ".join(shown.split())
    for part in ("tiny", "onnx", "map fine", "4 channels at stride 4", "pooled deep", "CC0-1.0", "random weights"):
        assert part in words
    described = run("show", "tiny", "--json").stdout
    assert Backbone.model_validate_json(described) == BackboneStore(folder).find("tiny")
    (tmp_path / "tiny.json").write_text(described)
    assert "there is already tiny" in run("add", "tiny", *files).stdout


def test_wrong_usage(folder: Path, files: list[str], tmp_path: Path) -> None:
    for arguments in (
        ["add", "other"],
        ["add", "efficientnet-lite0", *files],
        ["add", "tiny", *files[:2]],
        ["add", "tiny", *files[2:]],
        ["add", "tiny", "--onnx", str(tmp_path / "none.onnx"), *files[2:]],
        ["add", "Upper", *files],
        ["show", "tiny"],
    ):
        assert run(*arguments).exit_code == 2, arguments
    (tmp_path / "tiny.json").write_text(json.dumps(TINY | {"pooled": {"name": "deep", "channels": 9, "stride": 16}}))
    refused = run("add", "tiny", *files)
    assert refused.exit_code == 2
    reason = "expected 2x9x2x2 as output deep for images 2x3x32x32, got 2x8x2x2"
    assert refused.stderr.strip() == f"snf: The backbone cannot be used: {reason}"
    assert not folder.exists()


def test_a_damaged_backbone_is_named_beside_the_others(folder: Path, files: list[str]) -> None:
    run("add", "tiny", *files)
    (folder / "broken").mkdir()
    (folder / "broken" / DESCRIPTION).write_text("{}")
    listed = run("list", "--json")
    assert [backbone["name"] for backbone in json.loads(listed.stdout)["backbones"]] == ["tiny"]
    assert "snf: broken cannot be used" in listed.stderr
    BackboneStore(folder).path(BackboneStore(folder).find("tiny")).unlink()
    assert "missing" in run("list").stdout


def test_a_folder_that_cannot_be_written(folder: Path, files: list[str]) -> None:
    folder.write_text("no folder")
    failed = run("add", "tiny", *files)
    assert failed.exit_code == 3
    assert failed.stderr.startswith(f"snf: {folder}")


def test_adding_again_loads_no_torch(backbones: Path) -> None:
    code = (
        "import sys, snf_app.cli.main as m; sys.argv[0] = 'snf'\ntry: m.main()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "backbones", "add", "efficientnet-lite0", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"SNF_BACKBONES": str(backbones)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
