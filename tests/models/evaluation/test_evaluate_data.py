"""The shipped models told from each other's images, both ways."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_models.evaluation.assemble import Subject
from snf_models.evaluation.evaluate import evaluate
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from tests.support.compiled_cache import compiled

DATA_DIR = Path(os.environ.get("SNF_DATA_DIR") or "no-such-folder")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA_DIR / "fashion_mnist.npz").is_file(), reason="SNF_DATA_DIR has no fashion_mnist.npz"),
]


@pytest.mark.parametrize(
    ("model", "normal", "against"),
    [("mnist-snf-glow", "mnist", "fashion-mnist"), ("fashion-snf-glow", "fashion-mnist", "mnist")],
)
def test_either_way_the_combined_score_is_good(model: str, normal: str, against: str) -> None:
    scorer = load_model(Registry(Path("no-such-folder")).resolve(model).path, options=compiled())
    parameters = EvaluationParameters(against=[against], images=100)
    report = evaluate(Subject(scorer, f"{model}:1", normal, parameters, DATA_DIR, None))
    (found,) = report.sets
    assert (found.images.images, found.normal_images) == (100, 100)
    results = {one.score: one for one in found.results}
    assert results["combined"].auroc > 0.95
    if model == "fashion-snf-glow":
        assert results["log-likelihood-low"].auroc < 0.2, "digits are likelier than clothes"
        alarms = report.columns[0].false_alarms[0]
        assert alarms.inside
    assert any("other writers" in note for note in report.notes) == (normal == "mnist")
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
