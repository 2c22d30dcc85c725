"""The command `snf runs`: its list, comparison, CSV and deletion, and the export to TensorBoard."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_runtime.errors import USAGE
from tests.support.runs import SHIPPED, recorded

OTHER = {"max_steps": 40, "batch_size": 32, "learning_rate": 0.002, "image_size": None}


@pytest.fixture
def folder(own_home: Path) -> Path:
    return own_home / "home" / "run-records"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["runs", *arguments])


def words(text: str) -> str:
    return " ".join(re.sub("[─│]", " ", text).split())


def test_runs_are_listed_shown_and_deleted(folder: Path) -> None:
    assert json.loads(run("--json").stdout) == {"runs": [], "next": None}
    first, second = recorded(folder), recorded(folder, finished=False, model="parts")
    assert [listed["id"] for listed in json.loads(run("list", "--json").stdout)["runs"]] == [second, first]
    listed = words(run().stdout)
    assert f"{second} unfinished parts" in listed
    assert f"{first} finished {SHIPPED}" in listed
    page = run("list", "--limit", "1")
    assert page.stdout.splitlines()[-1] == f"older runs: snf runs list --after {second}"
    assert [older["id"] for older in json.loads(run("list", "--after", second, "--json").stdout)["runs"]] == [first]
    shown = words(run("show", first).stdout)
    for part in ("test bits/dim 1.0723", f"outcome registered {SHIPPED}", "batch_size 64", "validation 2.01"):
        assert part in shown
    assert run("delete", first).stdout == f"deleted {first}\n"
    again = run("show", first)
    assert (again.exit_code, f"No such run: no run has the id {first}" in again.stderr) == (USAGE, True)


def test_a_comparison_shows_what_differs_first_then_the_results_and_the_curves(folder: Path, tmp_path: Path) -> None:
    first, second = recorded(folder), recorded(folder, parameters=OTHER, bits=2.8, finished=False)
    table = tmp_path / "curves.csv"
    done = run("compare", first, second, "--out", str(table))
    assert done.exit_code == 0, done.output
    text = words(done.stdout)
    assert text.index("differs 1 2") < text.index("batch size 64 32") < text.index("test bits/dim 1.0723")
    assert "learning rate" not in text
    assert "settings are equal; --all shows them" in text
    assert "validation bits/dim 1 2.01 2 1.81" in text, "the legend of the chart"
    assert "learning rate 0.002 0.002" in words(run("compare", first, second, "--all").stdout)
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(rows) == 2 * (40 + 2)
    assert [row for row in rows if (row["run"], row["kind"], row["step"]) == (second, "validation", "40")] == [
        {
            "run": second,
            "model": "digits",
            "kind": "validation",
            "step": "40",
            "bits_per_dim": "1.8099999999999998",
            "reconstruction_error": "",
            "learning_rate": "",
        }
    ]
    compared = json.loads(run("compare", first, second, "--json").stdout)["runs"]
    assert [each["run"]["id"] for each in compared] == [first, second]
    for wrong in ([first], [first, first]):
        assert run("compare", *wrong).exit_code == USAGE
    assert "exists already" in run("compare", first, second, "--out", str(table)).stderr


def test_a_missing_extra_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    refused = run("export", recorded(folder), str(tmp_path / "out"))
    assert (refused.exit_code, "pip install 'snf-density[tensorboard]'" in refused.stderr) == (USAGE, True)
    assert not (tmp_path / "out").exists()


def test_an_export_to_tensorboard_is_read_by_it(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard: make test installs it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    run_id, out = recorded(folder, model="../../elsewhere"), tmp_path / "out"
    done = run("export", run_id, str(out), "--to", "tensorboard")
    assert done.exit_code == 0, done.output
    assert [path.name for path in out.iterdir()] == [run_id]
    events = EventAccumulator(str(out / run_id), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("validation/bits_per_dim")] == [
        (20, pytest.approx(2.51)),
        (40, pytest.approx(2.01)),
    ]
    assert len(events.Scalars("training/bits_per_dim")) == 40
    assert events.Scalars("result/test_bits_per_dim")[0].value == pytest.approx(1.1, abs=0.1)
    again = run("export", run_id, str(out), "--to", "tensorboard")
    assert (again.exit_code, "expected a folder without this run" in again.stderr) == (USAGE, True)
