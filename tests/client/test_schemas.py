"""The client's requests and responses are those of the service's OpenAPI document."""

import re
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from client.generate_schemas import PARAMETERS, TARGET, generate, generate_parameters, openapi_document
from snf_app.scoring.schemas import SCORED_DIGIT
from snf_client.parameters import TrainingConfig as TrainingParameters
from snf_client.schemas import JobRequest, Scores
from snf_models.training.config import TrainingConfig

pytestmark = pytest.mark.usefixtures("unmeasured_processes")


def test_generating_again_gives_the_same_text() -> None:
    described = openapi_document()
    assert generate(described) == TARGET.read_text(), "run `make client-schemas`"
    assert generate_parameters(described) == PARAMETERS.read_text(), "run `make client-schemas`"


def test_the_parameters_of_a_training_are_those_of_its_settings() -> None:
    assert set(get_type_hints(TrainingParameters)) == set(TrainingConfig.model_fields)
    assert get_type_hints(TrainingParameters)["max_minutes"] == float | None


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
