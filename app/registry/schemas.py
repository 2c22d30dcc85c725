"""What the service answers about models."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from app.calibrations.schemas import CalibrationView
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


class Drift(Answer):
    """Whether recent images of a model look like its calibration images, by their p-values."""

    source: str | None = Field(description="The source that the images were sent with; null for all images together.")
    images: int = Field(description="Images in the window: the newest that were scored.")
    statistic: float | None = Field(
        description="Two-sample Kolmogorov-Smirnov distance of the p-values from those of the calibration images; null "
        "while there are too few images."
    )
    p_value: float | None = Field(description="How rare a distance this large is without drift; null with `statistic`.")
    low_share: float = Field(description="Share of images with a p-value of 0.05 or less; about 0.05 without drift.")
    alarm: bool = Field(
        description="Starts where the p-value is at most the service's threshold, ends where it is past ten times that."
    )
    since: datetime = Field(description="When the oldest image of the window was scored.")
    alarm_since: datetime | None = Field(description="When the alarm was first seen, while it lasts.")


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
