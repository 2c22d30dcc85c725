"""Examples in the API's description are answers that the service could give."""

from typing import Any

import pytest
from pydantic import BaseModel

from app.audit_schemas import Audit
from app.dataset_schemas import DatasetDetail, DatasetList
from app.preset_schemas import PresetList
from app.reference_schemas import Reference
from app.version_schemas import Aliases, AliasTarget


@pytest.mark.parametrize("model", [Aliases, AliasTarget, Audit, DatasetDetail, DatasetList, PresetList, Reference])
def test_the_documented_examples_are_answers(model: type[BaseModel]) -> None:
    examples: Any = model.model_config["json_schema_extra"]
    for example in examples["examples"]:
        assert model.model_validate(example).model_dump(mode="json") == example
