"""`snf score --out`: what an interrupted command leaves, and what a service answers meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from snf_app.cli.bulk_scoring import LocalScorer, ServiceScorer, TableRequest
from snf_app.cli.main import cli
from snf_app.cli.score_output import JudgingModel, Remarks
from snf_client import Client
from snf_client.schemas.base import examples_of
from snf_client.schemas.models import Drift, ModelDetail, UnfitReason
from snf_client.schemas.scores import Scores
from snf_client.scores import ScorePart
from snf_models.bulk.executors import Callbacks
from snf_models.bulk.output import Output, open_scratch
from snf_models.bulk.tables import table_of
from snf_models.errors import Interrupted
from snf_runtime.errors import FAILED, USAGE
from tests.app.conftest import shipped_detail
from tests.support.paths import DIGITS

FILES = DIGITS[:3]
MODEL = "mnist-snf-glow"
SCORED_DIGIT = examples_of(Scores)[0]


pytestmark = pytest.mark.usefixtures("own_home")


def score(out: Path, *options: str) -> Any:
    return CliRunner().invoke(cli, ["score", *map(str, FILES), "-m", MODEL, "--out", str(out), *options])


def test_the_table_below_the_images_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in FILES:
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(folder)
    for options in ([], ["--force"]):
        done = CliRunner().invoke(cli, ["score", ".", "-m", MODEL, "--out", "scores.parquet", *options])
        assert (done.exit_code, "3 images judged" in done.stderr) == (0, True), done.output
    assert "left out, as results of this command are: scores.parquet" in done.stderr


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_the_name_of_the_table_may_have_any_bytes(ending: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"d\xe9j\xe0")
    folder.mkdir()
    out = folder / os.fsdecode(b"r\xe9sult" + ending.encode())
    for options in ([], ["--force"]):
        done = score(out, "--json", *options)
        assert done.exit_code == 0, done.output
        assert list(folder.iterdir()) == [out]


def request_of(out: Path, alpha: float | None = None) -> TableRequest:
    return TableRequest(list(FILES), out, MODEL, alpha, "line-1", force=False)


def interrupted(out: Path, alpha: float | None = None) -> Output:
    """Return the output of a command that was interrupted before it had scored anything."""
    return open_scratch(out.with_name(f".{out.name}.parts"), LocalScorer(request_of(out, alpha)).plan(None))


def test_an_interrupted_command_goes_on_and_another_does_not_destroy_its_parts(tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    output = interrupted(out)
    rows = [{"path": str(path), "log_likelihood": 1.5, "is_anomaly": False} for path in FILES]
    output.write(0, table_of(rows))  # what was scored before
    other = score(out, "--alpha", "0.05")
    assert other.exit_code == USAGE
    assert "an interrupted command left scores of 3 images of files" in other.stderr
    assert f"by {MODEL}:1 with calibration 0, alpha 0.01" in other.stderr
    assert output.part(0).exists()
    assert score(out).exit_code == 0
    assert [json.loads(line)["log_likelihood"] for line in out.read_text().splitlines()] == [1.5] * 3
    assert list(tmp_path.glob(".scores*")) == []
    assert score(out, "--force").exit_code == 0
    assert all(json.loads(line)["log_likelihood"] < 0 for line in out.read_text().splitlines())


def test_a_damaged_part_of_an_interrupted_command_is_scored_again(tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    interrupted(out).write(0, table_of([{"path": str(FILES[0]), "log_likelihood": 1.5, "is_anomaly": False}]))
    done = score(out)
    assert done.exit_code == 0, done.stderr
    assert "part-000000.parquet holds 1 rows, expected 3" in done.stderr
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == list(map(str, FILES))


def test_parts_of_another_command_are_removed_if_that_is_forced(tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    interrupted(out, 0.05).write(0, table_of([{"path": "a.png", "is_anomaly": False}]))
    assert score(out).exit_code == USAGE
    assert score(out, "--force").exit_code == 0
    assert "a.png" not in out.read_text()


class Answering:
    """The part of a client that scoring needs, with given answers."""

    def __init__(self, *calibrations: int) -> None:
        self._detail = shipped_detail()
        self._calibrations = calibrations
        self.asked: list[dict[str, Any]] = []
        self.models = self

    def get(self, _ref: str) -> ModelDetail:
        return self._detail

    def score_parts(self, ref: str, paths: list[Path], **options: Any) -> Iterator[ScorePart]:
        self.asked.append({"ref": ref, "paths": paths, **options})
        for calibration in self._calibrations:
            yield ScorePart(tuple(Scores.model_validate(SCORED_DIGIT).results), MODEL, 1, calibration)


def remote(client: Answering, folder: Path, alpha: float | None = None) -> tuple[ServiceScorer, Output]:
    request = request_of(folder / "scores.parquet", alpha)
    scorer = ServiceScorer(request, cast(Client, client))
    return scorer, open_scratch(folder / "parts", scorer.plan(None))


def test_the_plan_and_the_rows_are_those_of_this_process(tmp_path: Path) -> None:
    client = Answering(0, 0, 0)
    scorer, output = remote(client, tmp_path)
    here = LocalScorer(request_of(tmp_path / "scores.parquet"))
    assert here.plan(output.plan) is output.plan
    assert here.plan(None).resumed(output.plan) is output.plan
    told: list[int] = []
    scorer.run(output, [0], Callbacks(advance=told.append))
    [part] = output.files()
    rows = parquet.read_table(part).to_pylist()
    assert [row["path"] for row in rows] == list(map(str, FILES))
    assert rows[0]["log_likelihood"] == SCORED_DIGIT["results"][0]["log_likelihood"]
    assert told == [1, 1, 1]
    [asked] = client.asked
    # The version is fixed, so that all parts have the same.
    assert (asked["ref"], asked["source"]) == (f"{MODEL}:1", "line-1")


@pytest.mark.parametrize("alpha", [None, 0.05])
def test_the_service_is_asked_for_the_rate_that_the_user_asked_for(tmp_path: Path, alpha: float | None) -> None:
    client = Answering(0, 0, 0)
    scorer, output = remote(client, tmp_path, alpha)
    scorer.run(output, [0], Callbacks())
    # A default that is sent as a number would be refused by a calibration with a larger smallest p-value.
    assert [asked["alpha"] for asked in client.asked] == [alpha]
    assert output.plan.alpha == (alpha or 0.01)


def test_a_calibration_that_changes_meanwhile_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer, output = remote(Answering(0, 1, 1), tmp_path)
    with pytest.raises(typer.Exit) as raised:
        scorer.run(output, [0], Callbacks())
    assert raised.value.exit_code == FAILED
    assert f"expected scores of {MODEL}:1 with calibration 0, got some of calibration 1" in capsys.readouterr().err
    assert not output.part(0).exists()


def test_a_stop_between_two_requests_leaves_no_part(tmp_path: Path) -> None:
    scorer, output = remote(Answering(0, 0, 0), tmp_path)
    told: list[int] = []
    with pytest.raises(Interrupted):
        scorer.run(output, [0], Callbacks(lambda: len(told) == 2, told.append))
    assert not output.part(0).exists()


def test_what_a_service_says_of_a_model_is_passed_on() -> None:
    found = Answering()._detail
    capital: dict[str, Any] = {"log10_capital": 4.0, "log10_highest": 4.0, "log10_threshold": 3.0}
    moment = datetime(2026, 7, 1, tzinfo=UTC)
    capital |= {"images": 500, "since": moment, "quantity": "statistic", "alarm_since": None}
    drift = [Drift(**capital, source="line-1", alarm=alarm) for alarm in (True, False)]
    unfit = [UnfitReason(code="diverged", detail="diverged: the last validation is worse")]
    assert JudgingModel.of_detail(found.model_copy(update={"drift": drift, "unfit": unfit})).warnings == (
        "mnist-snf-glow:1 is unfit: diverged: the last validation is worse",
        "mnist-snf-glow:1 has a drift alarm of line-1: its p-values may be off",
    )


@pytest.mark.parametrize(("option", "stream"), [([], "stdout"), (["--json"], "stderr")])
def test_what_was_done_to_a_file_stands_below_the_table_or_beside_json(
    tmp_path: Path, option: list[str], stream: str
) -> None:
    path = tmp_path / "turned.tif"
    Image.open(FILES[0]).save(path, tiffinfo={274: 3})
    done = CliRunner().invoke(cli, ["score", str(path), str(FILES[1]), "-m", MODEL, *option])
    assert done.exit_code == 0
    assert f"note: turned as its EXIF orientation 3 says: {path}" in getattr(done, stream)


def test_remarks_are_counted_and_the_frequent_ones_shown() -> None:
    remarks = Remarks()
    for index in range(5):
        remarks.add("converted RGB -> L", f"{index}.png")
    for index in range(6):
        remarks.add(f"turned by {index}", "x.png")
    remarks.add("", "y.png")
    assert remarks.lines == [
        "converted RGB -> L: 0.png, 1.png, 2.png and 2 more",
        *(f"turned by {index}: x.png" for index in range(4)),
        "and 2 other remarks; --json and --out have those of each file",
    ]
