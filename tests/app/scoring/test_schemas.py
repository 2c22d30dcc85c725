"""Examples in the API's description are answers that the service could give."""

from typing import Any

import pytest
from pydantic import BaseModel

from app.audits.schemas import Audit
from app.datasets.schemas import DatasetDetail, DatasetList
from app.presets.schemas import PresetList
from app.registry.schemas import Aliases, AliasTarget
from app.scoring.schemas import Reference


@pytest.mark.parametrize("model", [Aliases, AliasTarget, Audit, DatasetDetail, DatasetList, PresetList, Reference])
def test_the_documented_examples_are_answers(model: type[BaseModel]) -> None:
    examples: Any = model.model_config["json_schema_extra"]
    for example in examples["examples"]:
        assert model.model_validate(example).model_dump(mode="json") == example
