from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from snf_app.http.schemas import Answer
from snf_models.pipeline.presets import Family


class PresetView(Answer):
    """A training preset: a named model architecture, with the training parameters that differ from the defaults."""

    name: str
    purpose: str = Field(description="Its purpose, and how long it trains.")
    family: Family
    linear: str = Field(description="Parametrisation of its linear layers.")
    parameters: dict[str, Any] = Field(
        description="Parameters whose defaults differ from the schema; parameters of a job override them."
    )
    accepts: list[str] = Field(description="Names of the parameters that it takes; a job with others is refused.")


class PresetList(Answer):
    """List of all training presets, with the JSON Schema of the parameters of a training job.

    The list also has the name of the default preset.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "presets": [
                        {
                            "name": "exact-fc-2l",
                            "purpose": "reproduction of the paper",
                            "family": "fully-connected",
                            "linear": "exact",
                            "parameters": {"learning_rate": 0.0001, "batch_size": 100, "precision": "float32"},
                            "accepts": ["max_steps", "learning_rate", "batch_size", "precision"],
                        }
                    ],
                    "default": "snf-glow-small",
                    "parameters": {
                        "title": "TrainingConfig",
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "max_steps": {"type": "integer", "default": 2000, "minimum": 1, "maximum": 10000000}
                        },
                    },
                }
            ]
        },
    )

    presets: list[PresetView]
    default: str = Field(description="The preset of a job without `preset`.")
    parameters: dict[str, Any] = Field(description="JSON Schema of a training job's `parameters`, with defaults.")
