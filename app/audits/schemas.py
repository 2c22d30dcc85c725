"""What the service answers about an audit of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from app.http.schemas import Answer
from models.artifacts.manifest import Precision


class AuditedImage(Answer):
    """One image scored twice."""

    index: int
    source: Literal["pinned", "sample"] = Field(
        description="`pinned`: stored with the model; `sample`: drawn from it, the same at every audit."
    )
    log_likelihood: float = Field(description="By the engine, with the cached log-determinants, nats.")
    recomputed: float = Field(
        description="By the flow as it was trained, in float64, every log-determinant computed anew, nats."
    )
    difference: float = Field(description="`log_likelihood` - `recomputed`, nats.")


class AuditedLayer(Answer):
    """The data-independent log-determinant of one layer."""

    layer: str
    cached: float = Field(description="As stored with the model, nats.")
    recomputed: float = Field(description="Computed anew in float64, nats.")
    difference: float = Field(description="`cached` - `recomputed`, nats.")


class AuditedTotal(Answer):
    """The sum of all data-independent log-determinants."""

    cached: float = Field(description="As scores use it, nats.")
    recomputed: float
    difference: float
    tolerance: float = Field(description="Largest difference allowed, nats: in every precision that of float32.")


class Audit(Answer):
    """Scores beside what they are without anything cached."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "mnist-snf-glow",
                    "version": 1,
                    "engine": "openvino",
                    "precision": "float32",
                    "images": [
                        {
                            "index": 0,
                            "source": "pinned",
                            "log_likelihood": -500.42619035,
                            "recomputed": -500.42630196,
                            "difference": 0.00011161,
                        }
                    ],
                    "log_dets": [
                        {"layer": "levels.0.steps.0", "cached": 431.25, "recomputed": 431.25, "difference": 0.0}
                    ],
                    "total": {"cached": 431.25, "recomputed": 431.25, "difference": 0.0, "tolerance": 0.001},
                    "tolerance": 0.001,
                    "agrees": True,
                    "seconds": 0.034,
                }
            ]
        },
    )

    model: str
    version: int
    engine: str = Field(description="The library that computes scores: openvino or torch.")
    precision: Precision = Field(description="Arithmetic of the middle convolutions of coupling networks in scores.")
    images: list[AuditedImage]
    log_dets: list[AuditedLayer] = Field(description="Of every layer that has one, in the order of the flow.")
    total: AuditedTotal
    tolerance: float = Field(
        description="Largest difference of an image allowed, nats: 0.001 up to 28x28 and 0.00001 a dimension beyond. "
        "In bfloat16 twice the worst deviation from float32 that its calibration measured is added: that much is "
        "rounding, and smaller errors are not seen in the images, but still in the log-determinants."
    )
    agrees: bool = Field(description="Whether no image and not the total differs by more than is allowed.")
    seconds: float = Field(description="Time that was spent computing.")
