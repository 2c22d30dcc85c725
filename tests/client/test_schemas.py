"""The client's requests and responses are those of the service's OpenAPI document."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from app.scoring.schemas import SCORED_DIGIT
from client.generate_schemas import TARGET, generate, openapi_document
from snf_client.schemas import JobRequest, Scores


def test_generating_again_gives_the_same_text() -> None:
    assert generate(openapi_document()) == TARGET.read_text(), "run `make client-schemas`"


def test_only_pydantic_is_imported() -> None:
    modules = re.findall(r"^(?:from|import) (\w+)", TARGET.read_text(), re.M)
    assert set(modules) == {"__future__", "datetime", "typing", "pydantic"}


def test_unknown_fields_of_a_response_are_ignored() -> None:
    newer: dict[str, Any] = SCORED_DIGIT | {"added_later": 1}
    newer["results"] = [SCORED_DIGIT["results"][0] | {"added_later": 2}]
    assert Scores.model_validate(newer) == Scores.model_validate(SCORED_DIGIT)


def test_unknown_fields_of_a_request_are_refused() -> None:
    with pytest.raises(ValidationError, match="presett"):
        JobRequest.model_validate({"type": "train", "dataset": "a", "model": "b", "presett": "c"})
