"""Examples in the API's description are answers that the service could give."""

from typing import Any

import pytest
from pydantic import BaseModel

from snf_app.http.openapi import SCHEMAS
from snf_client.schemas.datasets import DatasetDetail, DatasetList
from snf_client.schemas.jobs import JobList, JobView, Previews
from snf_client.schemas.models import Aliases, AliasTarget, Audit, ModelPage
from snf_client.schemas.scores import Reference
from snf_client.schemas.service import CallerView, Health, WorkerList
from snf_client.schemas.training import PresetList


@pytest.mark.parametrize("model", [Aliases, AliasTarget, Audit, DatasetDetail, DatasetList, PresetList, Reference])
def test_the_documented_examples_are_answers(model: type[BaseModel]) -> None:
    examples: Any = model.model_config["json_schema_extra"]
    for example in examples["examples"]:
        assert model.model_validate(example).model_dump(mode="json") == example


def test_the_other_examples_are_answers_too() -> None:
    models: list[type[BaseModel]] = [CallerView, Health, JobList, JobView, ModelPage, Previews, WorkerList]
    assert [model.__name__ for model in models] == list(SCHEMAS)
    for model in models:
        assert model.model_validate(SCHEMAS[model.__name__]).model_dump(mode="json") == SCHEMAS[model.__name__]
