"""Answers are open to the fields of a newer service; requests are not."""

import json
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from snf_client import schemas
from snf_client.schemas import base
from snf_client.schemas.base import examples_of
from snf_client.schemas.jobs import JobRequest
from snf_client.schemas.scores import Scores, q_values
from snf_client.schemas.training import TrainingConfig
from snf_client.transport import given_fields


def test_unknown_fields_of_a_response_are_ignored() -> None:
    example = examples_of(Scores)[0]
    newer: dict[str, Any] = example | {"added_later": 1}
    newer["results"] = [example["results"][0] | {"added_later": 2}]
    assert Scores.model_validate(newer) == Scores.model_validate(example)


def test_unknown_fields_of_a_request_are_refused() -> None:
    with pytest.raises(ValidationError, match="presett"):
        JobRequest.model_validate({"type": "train", "dataset": "a", "model": "b", "presett": "c"})


def test_only_the_fields_that_were_set_are_sent() -> None:
    given = given_fields(JobRequest(type="train", dataset="a", model="b", parameters={"max_steps": 3}))
    assert given == {"type": "train", "dataset": "a", "model": "b", "parameters": {"max_steps": 3}}
    assert given_fields(TrainingConfig(max_steps=3)) == given_fields({"max_steps": 3}) == {"max_steps": 3}


def documented() -> list[type[BaseModel]]:
    modules = [import_module(f"{schemas.__name__}.{module.name}") for module in pkgutil.iter_modules(schemas.__path__)]
    return [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__
        if examples_of(kind)
    ]


@pytest.mark.parametrize("kind", documented())
def test_documented_examples_are_requests_and_answers(kind: type[BaseModel]) -> None:
    assert kind.model_json_schema()["examples"] == examples_of(kind)
    for example in examples_of(kind):
        assert kind.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


def test_every_example_is_of_a_class() -> None:
    stored = json.loads(Path(base.__file__).with_name("examples.json").read_bytes())
    assert {kind.__name__ for kind in documented()} == stored.keys()


def test_known_values() -> None:
    assert q_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_none() -> None:
    assert q_values([]) == []


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_flags_what_the_step_up_rule_flags(n: int) -> None:
    p = np.random.default_rng(n).uniform(size=n) ** 3
    q = np.array(q_values(list(p)))
    for rate in (0.01, 0.05, 0.2, 0.7):
        below = np.nonzero(np.sort(p) <= rate * np.arange(1, n + 1) / n)[0]
        flagged = p <= (np.sort(p)[below[-1]] if len(below) else -1)
        assert ((q <= rate + 1e-12) == flagged).all()
