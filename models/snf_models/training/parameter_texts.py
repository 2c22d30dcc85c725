"""Descriptions of the training parameters for help texts and documents. The module does not import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snf_models.texts import value_text
from snf_models.training.config import GROUPS, TrainingConfig
from snf_models.training.presets import PRESETS


@dataclass(frozen=True)
class Parameter:
    name: str
    values: str  # type and range, such as "integer, 2 to 4096"
    default: str  # as it would be given; "unset" for None
    meaning: str


def parameter_groups() -> dict[str, list[Parameter]]:
    """Return the parameters by subject."""
    fields = TrainingConfig.model_json_schema()["properties"]
    return {title: [_parameter(name, fields[name]) for name in names] for title, names in GROUPS.items()}


def preset_defaults() -> list[tuple[list[str], dict[str, str]]]:
    """Return groups of presets with the defaults that they change, as text."""
    usual, changes = TrainingConfig(), {}
    for preset in PRESETS.values():
        own = preset.config({})
        changes[preset.name] = {
            name: value_text(value)
            for names in GROUPS.values()
            for name in names
            if (value := getattr(own, name)) != getattr(usual, name)
        }
    alike: list[tuple[list[str], dict[str, str]]] = []
    for preset_name, changed in changes.items():
        same = next((names for names, others in alike if others == changed), None)
        if same is not None:
            same.append(preset_name)
        elif changed:
            alike.append(([preset_name], changed))
    return alike


def _parameter(name: str, schema: Mapping[str, Any]) -> Parameter:
    return Parameter(name, _values(schema), value_text(schema["default"]), schema["description"])


def _values(schema: Mapping[str, Any]) -> str:
    # Of a value that may be unset, the other option.
    schema = next((option for option in schema.get("anyOf", ()) if option["type"] != "null"), schema)
    if "enum" in schema:
        return " or ".join([", ".join(schema["enum"][:-1]), schema["enum"][-1]])
    if schema["type"] == "array":
        return f"{_values(schema['prefixItems'][0])}, or two as [height, width]"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return "text"
    limits = _range(schema)
    return f"{schema['type']}, {limits}" if limits else schema["type"]


def _range(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{least:.12g} to {most:.12g}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return ", ".join(f"{word} {schema[key]:.12g}" for key, word in words.items() if key in schema)
