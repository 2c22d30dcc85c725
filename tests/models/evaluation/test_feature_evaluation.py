"""Evaluations and bulk scores of models with features: no bits/dim, and scores of features beside the others."""

from pathlib import Path

import pytest

from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_models.bulk.work import score_range
from snf_models.datasets import DatasetStore
from snf_models.datasets.image_source import ImageFiles
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.evaluation.report import render_html
from snf_models.scorer import Scorer
from snf_runtime.images.codec import encode_png
from tests.models.datasets.upload_files import DIGITS, pngs, source, zipped

SINGLE = {"feature-place", "feature-area", "feature-mean", "feature-image"}


@pytest.fixture(scope="module", params=["features", "hybrid"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    found: Scorer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    folder = tmp_path_factory.mktemp("home")
    store = DatasetStore(folder / "datasets")
    negatives = {f"{index:03d}.png": encode_png(255 - DIGITS[index]) for index in range(30)}
    for name, files in (("digits", pngs(60, 4)), ("negatives", negatives)):
        store.create(name, [source(folder / "uploads", zipped(files))])
    return store


@pytest.fixture(scope="module")
def report(scorer: Scorer, store: DatasetStore) -> EvaluationReport:
    parameters = EvaluationParameters(against=["negatives"])
    return evaluate(Subject(scorer, "parts:1", "digits", parameters, None, store))


def test_the_scores_of_features_are_among_the_columns(scorer: Scorer, report: EvaluationReport) -> None:
    hybrid = scorer.trained.pixels is not None
    families = {column.name for column in report.columns if column.family == "family"}
    assert families == {"feature-family"} | ({"whole-family", "local-family"} if hybrid else set())
    assert {column.name for column in report.columns if column.family == "features"} == SINGLE
    assert any(column.family == "whole-image" for column in report.columns) == hybrid
    results = {result.score: result.auroc for result in report.sets[0].results}
    assert list(results) == [column.name for column in report.columns]
    assert results["combined"] > 0.95


def test_bits_are_those_of_pixels_alone(scorer: Scorer, report: EvaluationReport) -> None:
    hybrid = scorer.trained.pixels is not None
    assert report.kind == scorer.density.kind == ("density" if hybrid else "feature_density")
    assert (report.normal.bits_per_dim is None) == (not hybrid)
    page = render_html(report)
    assert ("bits/dim" in page) == hybrid
    assert ("nats of the features" in page) == (not hybrid)
    labels = {histograms.label for histograms in report.histograms}
    assert ("log-likelihood of the features, nats" in labels) == (not hybrid)


def test_a_bulk_table_has_bits_of_pixels_alone(scorer: Scorer, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for path, data in zip(paths, pngs(5).values(), strict=True):
        path.write_bytes(data)
    images = ImageFiles(paths, scorer.preprocessing)
    rows = score_range(scorer, images, 0, 5, None).to_pylist()
    assert all(row["error"] is None and row["p_value"] > 0 for row in rows)
    assert all((row["bits_per_dim"] is None) == (scorer.trained.pixels is None) for row in rows)
