"""Near duplicates of an upload: named with their number, and left out where that is asked for."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_client.schemas.training import ImageOptions
from snf_models.datasets import DatasetStore
from snf_models.errors import DatasetRefused
from snf_runtime.images.codec import encode_png
from snf_worker.settings import Settings
from tests.models.datasets.upload_files import DIGITS, pngs, source, zipped

BRIGHTER = 3
FILES = pngs(30) | {f"lot9/again-{i}.png": encode_png(DIGITS[i].clip(max=250) + 5) for i in range(BRIGHTER)}


def test_they_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    upload = source(tmp_path / "uploads", zipped(FILES))
    kept = store.create("kept", [upload])
    near = kept.near_duplicates
    assert kept.images == 30 + BRIGHTER
    assert near.images >= 2 * BRIGHTER
    assert f"near duplicates: {near.images} images in {near.sets} pairs, as is usual" in " ".join(kept.notes)

    dropped = store.create("dropped", [upload], near_duplicates="drop")
    reasons = {file.path: file.reason for file in dropped.rejected_files}
    assert set(reasons) >= {f"lot9/again-{i}.png" for i in range(BRIGHTER)}
    assert set(reasons.values()) <= {f"it is a near duplicate of {path}" for path in FILES}
    assert dropped.rejected_by == {"near-duplicate": kept.images - dropped.images}
    assert (dropped.near_duplicates.images, dropped.duplicates.images) == (0, 0)
    assert "near duplicates" not in " ".join(dropped.notes)
    assert dropped.bytes < kept.bytes
    assert len(store.load("dropped", ImageOptions()).train) == dropped.split.train


def test_a_dataset_of_near_duplicates_alone_is_too_small(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets")
    copies = {f"{i}.png": encode_png(DIGITS[0].clip(max=200) + i) for i in range(20)}
    with pytest.raises(DatasetRefused, match="1 different images can be used, at least 10 are needed; 19 files"):
        store.create("copies", [source(tmp_path / "uploads", zipped(copies))], near_duplicates="drop")
    assert store.names() == []


def test_the_command_line_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_HOME", str(tmp_path / "home"))
    archive = tmp_path / "parts.zip"
    archive.write_bytes(zipped(FILES))
    runner = CliRunner()
    said = runner.invoke(cli, ["datasets", "upload", "kept", str(archive)], terminal_width=200)
    assert said.exit_code == 0, said.output
    near = DatasetStore(Settings(home=tmp_path / "home").datasets_dir).report("kept").near_duplicates
    assert f"near duplicates: {near.images} images in {near.sets} pairs" in " ".join(said.stdout.split())
    assert f"{near.images} images in {near.sets} pairs" in said.stdout
    assert "equal" not in said.stdout
    left = runner.invoke(cli, ["datasets", "upload", "dropped", str(archive), "--near-duplicates", "drop"])
    assert left.exit_code == 0, left.output
    assert "it is a near duplicate of" in left.stdout
