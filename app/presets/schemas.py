"""What the service answers about the ways to train."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from app.http.schemas import Answer
from models.training.presets import Family


class PresetView(Answer):
    """A named architecture with the training that goes with it."""

    name: str
    purpose: str = Field(description="What it is for, and how long it takes.")
    family: Family
    linear: str = Field(description="How its linear layers are parametrised and learned.")
    parameters: dict[str, Any] = Field(
        description="Parameters whose defaults differ from those of the schema; what a job asks for comes first."
    )


class PresetList(Answer):
    """All presets, and what a training may be told."""

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
    default: str = Field(description="The preset of a job that names none.")
    parameters: dict[str, Any] = Field(description="JSON Schema of a training job's `parameters`, with defaults.")
