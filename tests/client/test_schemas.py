"""Answers are open to the fields of a newer service; requests are not."""

from typing import Any

import pytest
from pydantic import ValidationError

from snf_client.schemas.jobs import JobRequest
from snf_client.schemas.scores import SCORED_DIGIT, Scores
from snf_client.schemas.training import TrainingConfig
from snf_client.transport import given_fields


def test_unknown_fields_of_a_response_are_ignored() -> None:
    newer: dict[str, Any] = SCORED_DIGIT | {"added_later": 1}
    newer["results"] = [SCORED_DIGIT["results"][0] | {"added_later": 2}]
    assert Scores.model_validate(newer) == Scores.model_validate(SCORED_DIGIT)


def test_unknown_fields_of_a_request_are_refused() -> None:
    with pytest.raises(ValidationError, match="presett"):
        JobRequest.model_validate({"type": "train", "dataset": "a", "model": "b", "presett": "c"})


def test_only_the_fields_that_were_set_are_sent() -> None:
    given = given_fields(JobRequest(type="train", dataset="a", model="b", parameters={"max_steps": 3}))
    assert given == {"type": "train", "dataset": "a", "model": "b", "parameters": {"max_steps": 3}}
    assert given_fields(TrainingConfig(max_steps=3)) == given_fields({"max_steps": 3}) == {"max_steps": 3}
