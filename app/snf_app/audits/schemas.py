from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from snf_app.http.schemas import Answer
from snf_models.artifacts.manifest import Precision


class AuditedImage(Answer):
    """Log-likelihood of one image in an audit: as the service gives it, and recomputed in float64.

    Both values and their difference are in nats.
    """

    index: int
    source: Literal["pinned", "sample"] = Field(
        description="`pinned`: stored with the model; `sample`: drawn from it, the same at every audit."
    )
    log_likelihood: float = Field(description="By the engine, with the cached log-determinants, nats.")
    recomputed: float = Field(
        description="By the flow as it was trained, in float64, with every log-determinant recomputed, nats. Features "
        "are extracted in float64, too, unless the backbone is an ONNX file."
    )
    difference: float = Field(description="`log_likelihood` - `recomputed`, nats.")
    tolerance: float = Field(description="Largest allowed difference of this image, nats.")


class AuditedLayer(Answer):
    """Log-determinant of one layer of a flow, as stored with the model and as recomputed in float64.

    It is log |det Jacobian|, which is equal for all images.
    """

    layer: str = Field(description="Its name; in a hybrid model it begins with `pixels.` or `features.`.")
    cached: float = Field(description="As stored with the model, nats.")
    recomputed: float = Field(description="Recomputed in float64, nats.")
    difference: float = Field(description="`cached` - `recomputed`, nats.")


class AuditedTotal(Answer):
    """Sum of a model's log-determinants over its layers, as used in scores and as recomputed in float64.

    It is the log |det Jacobian| that is equal for all images. Its largest allowed difference is included.

    The sum is that of the layers whose log |det Jacobian| a score contains: in a hybrid model those of pixels, and for
    features `places.0`, of the fit to all images.
    """

    cached: float = Field(description="As used by scores, nats.")
    recomputed: float
    difference: float
    tolerance: float = Field(description="Largest allowed difference, nats: that of float32 in every precision.")


class Audit(Answer):
    """Check of a model's log-likelihoods against a recomputation in float64, on up to 16 images.

    The log-likelihoods are compared as served. The log-determinants of the layers are compared, too. The recomputation
    uses no cached values.
    """

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
                            "tolerance": 0.001,
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
    log_dets: list[AuditedLayer] = Field(description="Of all layers that have one, in the order of the flow.")
    total: AuditedTotal
    tolerance: float = Field(
        description="Largest allowed difference of the least likely image, nats: 0.001 up to 28x28 and 0.00001 per "
        "dimension beyond, or a millionth of the log-likelihood where that is more. In bfloat16, twice the largest "
        "deviation from float32 in its calibration is added for rounding. Smaller errors then show only in the "
        "log-determinants."
    )
    agrees: bool = Field(description="Whether all images, all layers and the total are within their tolerances.")
    seconds: float = Field(description="Computing time.")
