"""The images that the progress of a fit counts are those that it passes through the backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snf_models.datasets import DatasetStore, load_dataset
from snf_models.pipeline.feature_fit import UNITS, passes_of_fit
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scoring.options import EngineOptions
from snf_worker.attempts.run_attempt import ProgressReporter
from snf_worker.jobs.events import FILE, AttemptSummary, EventLog, read_chunk
from tests.models.datasets.upload_files import pngs, source, zipped


@pytest.mark.parametrize(
    ("name", "parameters", "share"),
    [
        ("mnist-mini", {"feature_steps": 1, "feature_updates": 3}, 1.0),
        ("mnist-mini", {"suspect_share": 0.1}, 0.9),
        ("digits", {}, 1.0),
    ],
    ids=["steps", "suspects", "folds"],
)
def test_progress_reaches_its_end(
    tmp_path: Path,
    backbones: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    parameters: dict[str, Any],
    share: float,
) -> None:
    monkeypatch.setattr("snf_worker.attempts.run_attempt.REPORT_S", 0.0)
    store = DatasetStore(tmp_path / "datasets")
    if name == "digits":
        store.create("digits", [source(tmp_path / "uploads", zipped(pngs(40, 4)))])
    config = find_preset("snf-features").config({"feature_side": 32, **parameters})
    dataset = load_dataset(name, None, store, config)
    if name == "mnist-mini":  # the backbone takes its time for each image
        few = {part: getattr(dataset, part)[:20] for part in ("statistics", "calibration", "test")}
        few["train"] = dataset.train[:60]
        dataset = replace(dataset, **few, digest=f"{dataset.digest}-few")
    elif dataset.folds is not None and dataset.whole_folds is not None:  # all fits are repeated for each fold
        dataset = replace(dataset, folds=dataset.folds % 3, whole_folds=dataset.whole_folds % 3)
    assert (dataset.whole_folds is not None) == (name == "digits")
    total = passes_of_fit(dataset, config)
    log = EventLog(tmp_path, 1)
    fit = ProgressReporter(log, total)

    def observe(event: dict[str, Any]) -> None:
        log.write(event)
        if event["event"] == "scoring":
            fit.report(event["done"] * UNITS.get(event["part"], 1), part=event["part"])

    engine = EngineOptions("torch", threads=1, backbones=backbones)
    folder = tmp_path / "run"
    train(dataset, "snf-features", config, folder, observe=observe, should_stop=lambda: False, engine=engine)
    summary, fractions = AttemptSummary({}, {}, None), [0.0]
    for _, event in read_chunk(tmp_path / FILE).entries:
        summary.add(event)
        fractions.append(summary.progress.get("fraction", 0.0))
    assert fractions == sorted(fractions), "one progress, which rises"
    assert summary.progress["steps"] == total
    summary.add({"event": "published", "model": "digits", "version": 1, "ref": "digits:1"})  # of an earlier version
    assert summary.result == {"model": "digits", "version": 1, "ref": "digits:1"}
    assert share * total <= fit.done <= total
