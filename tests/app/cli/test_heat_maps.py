"""`snf score --explain`: what becomes of the heat maps of earlier commands."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_runtime.errors import NOT_JUDGED, USAGE
from tests.support.paths import DIGITS

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, digit in zip(("a.png", "b.png"), DIGITS, strict=False):
        (folder / name).write_bytes(digit.read_bytes())
    return folder


def explain(images: Path, *options: str) -> Any:
    return CliRunner().invoke(cli, ["score", str(images), "--explain", str(images.with_name("maps")), *options])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_earlier_heat_maps_are_deleted_if_that_is_forced_and_other_files_never(images: Path, tmp_path: Path) -> None:
    assert explain(images).exit_code == 0
    (tmp_path / "maps" / "notes.txt").write_text("notes")
    before = files(tmp_path / "maps")
    assert before.keys() == {"00000-a.png", "00001-b.png", "notes.txt"}
    (images / "b.png").write_text("no image")
    for options in ([], ["--force", "--alpha", "1e-9"]):
        refused = explain(images, *options)
        assert (refused.exit_code, files(tmp_path / "maps")) == (USAGE, before), refused.stderr
    assert explain(images, "--force").exit_code == NOT_JUDGED
    # An image that is no longer judged keeps no heat map.
    del before["00001-b.png"]
    assert files(tmp_path / "maps") == before


def test_results_below_the_images_are_no_images(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    for options in ([], ["--force"]):
        done = CliRunner().invoke(cli, ["score", ".", "--explain", "maps", *options])
        assert (done.exit_code, "2 images judged" in done.stderr) == (0, True), done.output
    assert "left out, as results of this command are: maps/00000-a.png and 1 more" in done.stderr
    assert files(images / "maps").keys() == {"00000-a.png", "00001-b.png"}


def test_the_name_of_an_image_may_be_as_long_as_names_can_be(images: Path, tmp_path: Path) -> None:
    (images / "b.png").rename(images / f"{'ü' * 125}.png")
    assert explain(images).exit_code == 0
    assert files(tmp_path / "maps").keys() == {"00000-a.png", f"00001-{'ü' * 122}.png"}
