"""Every table of the command line in a terminal of 80 characters: names, ids and verdicts are whole, nothing is cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from snf_app.calibrations.service import listing
from snf_app.cli import datasets, evaluation_tables, job_tables, model_tables
from snf_app.cli.keys import create, list_keys
from snf_app.cli.output import TableColumn, print_table
from snf_app.cli.presets import layers, list_backbones, list_presets
from snf_app.cli.score_output import TableOutput
from snf_app.cli.service import Session
from snf_client.schemas.base import examples_of
from snf_client.schemas.calibrations import CalibrationComparison, CalibrationList
from snf_client.schemas.datasets import DatasetDetail, DatasetList
from snf_client.schemas.jobs import JobList
from snf_client.schemas.limits import LimitRecord, LimitView
from snf_client.schemas.models import Audit, ModelPage, ModelSummary, UnfitReason
from snf_client.schemas.recommendations import RecommendationRecord
from snf_client.schemas.scores import FailedImage, ItemError, ScoredImage, Scores
from snf_client.scores import ScorePart
from snf_models.flows.layers import layer_types
from snf_models.pipeline.presets import PRESETS
from snf_models.registry.registry import Registry
from tests.app.cli.test_tables import job
from tests.app.conftest import shipped_detail
from tests.models.evaluation.test_report import made

WIDTH = 80
NAME = "bottles-of-line-12"
REASON = "rows 18-25, columns 8-15: plainer than its surroundings suggest"
LIMIT = examples_of(LimitView)[0]["limit"]


def scores() -> None:
    [good] = Scores.model_validate(examples_of(Scores)[0]).results
    assert isinstance(good, ScoredImage)
    reason = {"feature": "region", "z": 3.0, "share": 0.5, "text": REASON}
    anomaly = good.anomaly.model_validate(good.anomaly.model_dump() | {"is_anomaly": True, "reasons": [reason]})
    found = good.model_copy(update={"filename": "lots/00164-6.png", "anomaly": anomaly, "log_likelihood": -12345.678})
    error = ItemError(type="wrong-image-shape", title="", status=422, detail="expected 28x28 pixels, got 32x32")
    bad = FailedImage(index=2, filename="lots/cat.png", status="error", error=error)
    output = TableOutput()
    output.add(ScorePart((good, found, bad), "mnist-snf-glow", 1, 0))
    output.end()


def job_list() -> None:
    finished = {"id": "06f8m2q1x3z4c5v6b7n8m9k0j2", "type": "evaluate", "status": "succeeded", "metrics": {}}
    waiting = {"id": "06f8m2q1x3z4c5v6b7n8m9k0j3", "status": "queued", "waits_for": "a worker with a GPU"}
    jobs = [job(model=f"{NAME}:1", dataset=NAME, **more) for more in ({}, finished, waiting)]
    job_tables.print_jobs(JobList(jobs=jobs, next=None))


def shown_model() -> None:
    model_tables.print_model(shipped_detail())


def model_list() -> None:
    facts: dict[str, Any] = {"read_only": False, "architecture": "snf-glow-small", "kind": "density", "size_bytes": 1}
    facts |= {"image_shape": [3, 128, 128], "test_bits_per_dim": 2.0, "reason": None}
    reason = UnfitReason(code="hardly-trained", detail="hardly trained: 2.0853 bits/dim")
    models = [
        ModelSummary(**facts, name=NAME, versions=list(range(1, 12)), state="ready", aliases={"live": 11}, unfit=[]),
        ModelSummary(**facts, name="hasty", versions=[1], state="unfit", aliases={}, unfit=[reason]),
    ]
    model_tables.print_models(ModelPage(models=models))


def calibration_list() -> None:
    [calibration] = listing(Registry(Path("no-models")), "mnist-snf-glow").calibrations
    calibration = calibration.model_copy(update={"dataset": NAME})
    found = {"model": "m", "version": 1, "active": 0, "calibrations": [calibration.model_dump()]}
    model_tables.print_calibrations(CalibrationList.model_validate(found))


def audit() -> None:
    image = {"index": 0, "source": "pinned", "log_likelihood": -123456.42619035, "recomputed": -123456.42630196}
    numbers = {"cached": 431.25, "recomputed": 431.25, "difference": 0.0, "tolerance": 0.001}
    found = {"model": NAME, "version": 1, "engine": "openvino", "precision": "float32", "log_dets": [], "agrees": True}
    found |= {"images": [image | {"difference": 1e-4, "tolerance": 1e-3}], "total": numbers}
    model_tables.print_audit(Audit.model_validate(found | {"tolerance": 0.001, "seconds": 1.0}))


def dataset_list() -> None:
    entry = examples_of(DatasetList)[0]["datasets"][0] | {"name": NAME, "images": 1_000_000}
    datasets.print_datasets(DatasetList.model_validate({"datasets": [entry]}))


def dataset_report() -> None:
    datasets.print_report(DatasetDetail.model_validate(examples_of(DatasetDetail)[0] | {"name": NAME}))


def limits() -> None:
    sizes = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]
    cells = [LIMIT["curves"][0]["cells"][0] | {"size": size} for size in sizes]
    curves = [LIMIT["curves"][0] | {"cells": cells}]
    curves += [curves[0] | {"shape": "scratch", "contrast": 128, "limit": None, "lower": None}]
    record = LIMIT | {"sizes": sizes, "curves": curves, "shapes": ["missing-part", "scratch"]}
    evaluation_tables.print_limit(1, LimitRecord.model_validate(record))


def recommendation() -> None:
    undamaged, curves = LIMIT["undamaged"], LIMIT["curves"]
    family = {"held_out": 12.345, "baseline": 23.456, "unit": "nats/value", "undamaged": undamaged, "mean_rank": 0.51}
    family |= {"typical_limit": "10.0"}
    family |= {"curves": curves, "fit_seconds": 1234.0, "seconds_per_1000": 123.4}
    families = [
        family | {"family": name, "preset": preset}
        for name, preset in (("features", "snf-features"), ("pixels", "snf-glow-small"), ("hybrid", "snf-hybrid"))
    ]
    images = {"fit": 10, "statistics": 10, "ranks": 10, "good": 40}
    found = {"created": datetime(2026, 1, 2, tzinfo=UTC), "dataset": NAME, "dataset_digest": "", "seconds": 300.0}
    found |= {"image_shape": (1, 28, 28), "minutes": 5.0, "seed": 0, "alpha": 0.01, "smallest_p": 0.001}
    found |= {"images": images, "shapes": ["missing-part"], "contrasts": [64], "sizes": [8, 12], "families": families}
    found |= {"proposal": "features", "preset": "snf-features", "reasons": ["it is best"], "not_covered": "nothing"}
    evaluation_tables.print_recommendation(RecommendationRecord.model_validate(found))


def evaluation() -> None:
    evaluation_tables.print_report(made())


def keys() -> None:
    create(NAME, "score", expires="90d", requests="600/minute", images="10000/hour")
    list_keys()


def preset_list() -> None:
    with ExitStack() as stack:
        list_presets(Session(stack, None, None, as_json=False, in_process=True))


TABLES: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "scores": (scores, ("00027-4.png", "lots/00164-6.png", "lots/cat.png", "anomaly", "normal", "not judged")),
    "jobs": (
        job_list,
        ("06f8m2q1x3z4c5v6b7n8m9k0j2", "running", "succeeded", "evaluate", f"{NAME}:1", "25 %", "a worker with a GPU"),
    ),
    "job": (lambda: job_tables.print_job(job(parameters={"images": 1} | {c * 9: 1 for c in "abcdefgh"})), ("running",)),
    "model": (shown_model, ("mnist-snf-glow:1", "1x28x28")),
    "models": (model_list, (NAME, "hasty", "ready", "none", "3x128x128")),
    "calibrations": (calibration_list, (NAME, "0.0002", "yes")),
    "comparison": (
        lambda: model_tables.print_comparison(CalibrationComparison(**examples_of(CalibrationComparison)[0])),
        ("before:", "after:", "0.03226", "9 of 200"),
    ),
    "audit": (audit, ("-123456.426190", "-123456.426302", "agree")),
    "datasets": (dataset_list, (NAME, "3x64x64", "1000000")),
    "dataset": (dataset_report, (NAME, "lot-1/0001.jpg")),
    "limit": (limits, ("scratch, 128", "missing part", "92.8 %")),
    "recommendation": (recommendation, ("features", "pixels", "hybrid", "nats/value", "0 of 40")),
    "evaluation": (evaluation, ("combined", "png-size", "0.9300", "hole-8", "+0.100")),
    "presets": (preset_list, tuple(PRESETS)),
    "layers": (layers, tuple(layer.type_name() for layer in layer_types())),
    "backbones": (list_backbones, ("SHA-256",)),
    "keys": (keys, (NAME, "score", "active")),
}
LONG = ("go on with: ", "- ", "verdicts: ", f"{NAME}:1 on ", "digits:1: ", "left out, as they do not fit: ")
"""Beginnings of lines that are no row of a table, and may be broken by the terminal."""


@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_the_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("SNF_HOME", str(tmp_path))
    show, wanted = TABLES[name]
    show()
    said = capsys.readouterr().out
    for text in wanted:
        assert text in said
    assert "…" not in said
    assert [line for line in said.splitlines() if len(line) > WIDTH and not line.startswith(LONG)] == []


def test_columns_are_left_out_in_their_order_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (
        TableColumn("name"), TableColumn("second", drop=2), TableColumn("first", drop=1), TableColumn("none", drop=3),
    )  # fmt: skip
    row = ("a" * 20, "b" * 10, "c" * 10, "")
    for width, left_out in ((60, []), (34, ["first"]), (32, ["first"]), (25, ["second", "first"])):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(columns, [row])
        said = capsys.readouterr().out
        for name, cell in zip(("second", "first"), row[1:], strict=False):
            assert (cell in said) == (name not in left_out)
        assert (f"left out, as they do not fit: {', '.join(left_out)}" in said) == bool(left_out)
        assert "none" not in said


PATHS = ("defects/scratched/00027-4.png", "0123456789/" * 8 + "00027-4.png")


@pytest.mark.parametrize("path", PATHS)
def test_no_word_is_broken_where_columns_can_be_left_out_or_paths_end_at_slashes(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    columns = (
        TableColumn("file", fold=12), TableColumn("image", fold=8), TableColumn("none"), TableColumn("state", fold=12),
        TableColumn("reason", fold=20, drop=1),
    )  # fmt: skip
    print_table(columns, [[path, "1x256x256", "", "not judged", "darker than its surroundings suggest"]])
    said = capsys.readouterr().out
    assert "1x256x256" in said
    assert "00027-4.png" in said
    assert "none" not in said
    assert all(len(line) <= WIDTH for line in said.splitlines())
    if path == PATHS[0]:
        assert path in said
        assert "reason" in said
