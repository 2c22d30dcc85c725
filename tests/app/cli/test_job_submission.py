"""Requests for jobs from the words of `snf jobs submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_origin

import pytest
import typer

from snf_app.cli.jobs import LISTS, TEXTS, job_request
from snf_client.schemas.calibrations import CalibrationParameters
from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.jobs import JobRequest, ScoringParameters
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendParameters
from snf_client.schemas.training import TrainingConfig

PARAMETERS = (
    *(ScoringParameters, CalibrationParameters, EvaluationParameters, LimitParameters, RecommendParameters),
    TrainingConfig,
)


def test_words_become_the_fields_and_parameters_of_a_request() -> None:
    pairs = ["dataset=7", "model=m@best", "against=bad,worse", "images=50", "corruptions=true", "note=a=b"]
    made = job_request("evaluate", pairs, None)
    assert made.model_dump(exclude_unset=True) == {
        "type": "evaluate",
        "dataset": "7",
        "model": "m@best",
        "parameters": {"against": ["bad", "worse"], "images": 50, "corruptions": True, "note": "a=b"},
    }


def test_words_override_a_file(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"type": "score", "dataset": "a", "model": "m", "parameters": {"alpha": 0.1, "x": 1}}))
    made = job_request("score", ["dataset=b", "alpha=0.2"], file)
    assert (made.dataset, made.model, made.parameters) == ("b", "m", {"alpha": 0.2, "x": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected the request of a job of type score, got [1]"),
        ('{"type": "train"}', "expected the request of a job of type score, got 'train'"),
        ('{"parameters": [1]}', "expected parameters by name, got [1]"),
        ('{"data": "lots"}', "and parameters, got 'data'"),
        ("{", "expected JSON"),
    ],
)
def test_a_file_that_is_no_request_is_refused(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "request.json"
    file.write_text(content)
    with pytest.raises(typer.Exit) as raised:
        job_request("score", ["dataset=a"], file)
    assert raised.value.exit_code == 2
    assert message in capsys.readouterr().err


def test_the_fields_and_the_lists_are_those_of_the_service() -> None:
    fields = {name: field for schema in PARAMETERS for name, field in schema.model_fields.items()}
    assert {name for name, field in fields.items() if get_origin(field.annotation) in (list, tuple)} == set(LISTS)
    assert not JobRequest.model_fields.keys() & fields.keys()
    assert set(TEXTS) <= JobRequest.model_fields.keys() | fields.keys()
