"""`snf bulk`: what it refuses, and how it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from app.cli.main import cli
from tests.support.compiled_cache import share_compiled
from tests.support.paths import DIGITS

FILES = DIGITS[:3]
MODEL = "mnist-snf-glow"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three digits; it is the working directory of the command, and `SNF_HOME` is beside it."""
    for name in ("SNF_URL", "SNF_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SNF_HOME", str(share_compiled(tmp_path / "home")))
    folder = tmp_path / "images"
    folder.mkdir()
    for file in FILES:
        shutil.copy(file, folder)
    monkeypatch.chdir(tmp_path)
    return folder


def bulk(*options: str, images: str = "images") -> Any:
    return CliRunner().invoke(cli, ["bulk", images, "-m", MODEL, "--out", "scores", *options])


def test_a_damaged_part_is_scored_again_by_the_same_command(tmp_path: Path) -> None:
    assert bulk().exit_code == 0
    part = tmp_path / "scores" / "part-000000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    again = bulk("--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["images"] == 3
    assert "part-000000.parquet is missing or damaged" in again.stderr
    assert part.read_bytes() == whole
    assert parquet.read_table(part).num_rows == 3
