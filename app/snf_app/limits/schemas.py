from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from snf_app.http.schemas import Answer
from snf_models.registry.limits import LimitRecord

CELL: dict[str, Any] = {"size": 12, "found": 40, "images": 40, "share": 1.0, "lower": 0.927842475, "upper": 1.0}
LIMIT: dict[str, Any] = {
    "number": 1,
    "in_use": True,
    "limit": {
        "format_version": 1,
        "created": "2026-07-01T12:00:00Z",
        "job": "06f8m2q1x3z4c5v6b7n8m9k0j1",
        "weights_sha256": "3f0f0e5a" * 8,
        "calibration": 0,
        "calibration_images": 5000,
        "smallest_p": 0.00019996,
        "alpha": 0.01,
        "dataset": "mnist",
        "dataset_digest": "9b1f7c2d" * 8,
        "part": "statistics part",
        "images": 40,
        "image_shape": [1, 28, 28],
        "seed": 0,
        "shapes": ["missing-part"],
        "contrasts": [32, 64, 128],
        "sizes": [2, 3, 4, 6, 8, 12],
        "undamaged": {"flagged": 0, "images": 40, "share": 0.0, "interval": [0.0, 0.088097303]},
        "curves": [
            {
                "shape": "missing-part",
                "contrast": None,
                "cells": [CELL | {"size": 8}, CELL],
                "limit": 8,
                "lower": 0.927842475,
            }
        ],
        "not_determinable": None,
        "seconds": 4.9,
    },
}


class LimitView(Answer):
    """A measured detection limit, the size of the smallest defects that a model version finds.

    It says whether the limit belongs to the calibration in use.
    """

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [LIMIT]})

    number: int
    in_use: bool = Field(description="Whether it belongs to the calibration in use.")
    limit: LimitRecord


class LimitList(Answer):
    """Measurements of the smallest defects that a model version detects, the newest first."""

    model: str
    version: int
    active: int = Field(description="The calibration in use. A limit belongs to one calibration.")
    limits: list[LimitView]
