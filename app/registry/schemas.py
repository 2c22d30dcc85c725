"""What the service answers about models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.calibrations.schemas import CalibrationView
from app.drift.schemas import Drift
from app.http.schemas import Answer
from models.artifacts.manifest import Precision


class ModelSummary(Answer):
    """One model name."""

    name: str
    versions: list[int]
    aliases: dict[str, int]
    state: Literal["idle", "loading", "ready", "failed"] = Field(
        description="State of the live version; `idle` is loaded when it is first asked for."
    )
    reason: str | None = Field(description="Why it failed, if it did.")
    read_only: bool | None = Field(description="Whether the model ships with the product.")
    architecture: str | None = Field(description="The preset that the model was made from.")
    image_shape: list[int] | None = Field(description="Channels, height, width.")
    test_bits_per_dim: float | None
    size_bytes: int | None = Field(description="Size of the live version's files.")


class ModelPage(Answer):
    """All models."""

    models: list[ModelSummary]


class Serving(Answer):
    """How a loaded version computes."""

    engine: str = Field(description="The library that computes: openvino or torch.")
    precision: Precision = Field(
        description="Arithmetic of the middle convolutions of coupling networks, that of the calibration in use; all "
        "else is float32 or better."
    )
    tile: int = Field(description="Images that are computed at once: measured when the model was first loaded here.")
    log_det_total: float = Field(description="Sum of the cached data-independent log-determinants, nats.")
    log_det_digest: str = Field(description="Digest of the weights that they belong to.")
    has_learned_inverse: bool
    smallest_p: float
    default_alpha: float


class ModelDetail(Answer):
    """One version of a model: its manifest, and how it is served."""

    name: str
    version: int
    read_only: bool
    state: Literal["idle", "loading", "ready", "failed"]
    reason: str | None
    size_bytes: int
    manifest: dict[str, Any] = Field(description="The artifact's manifest as it stands on disk.")
    calibration: CalibrationView = Field(description="The calibration that scoring uses.")
    serving: Serving | None = Field(description="Absent until the version is loaded.")
    drift: list[Drift] = Field(description="All images together first, then by source; empty until images were scored.")


class AliasTarget(BaseModel):
    """The version that an alias shall point at."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"version": 3}]})

    version: int = Field(ge=1, lt=10**9, description="A version of the model.")


class Aliases(Answer):
    """The aliases of a model after one was moved."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={"examples": [{"name": "line-1", "aliases": {"live": 3, "champion": 2}, "previous": 2}]},
    )

    name: str
    aliases: dict[str, int] = Field(description="Alias to version; `live` is what the plain name means.")
    previous: int | None = Field(description="Where the alias pointed before; null for a new one.")
