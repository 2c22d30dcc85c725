from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from snf_app.calibrations.schemas import CalibrationView
from snf_app.drift.schemas import Drift
from snf_app.http.schemas import Answer, Whole
from snf_models.artifacts.manifest import Precision, UnfitCode
from snf_runtime.images.preprocessing import Fit
from snf_runtime.kinds import DensityKind


class UnfitReason(Answer):
    """Reason why a model version is not fit to become the live (default) version automatically.

    It has a code, and a sentence with the figures.
    """

    code: UnfitCode
    detail: str = Field(examples=["hardly trained: 2.0853 bits/dim on held-out images, not below the 1.9540 of ..."])


class ModelSummary(Answer):
    """Summary of one registered model, as the list of models shows it.

    It has the versions and aliases, and the state and quality of the live version.

    While no version is live, state and quality are those of the newest version.
    """

    name: str
    versions: list[int]
    aliases: dict[str, int]
    state: Literal["idle", "loading", "ready", "failed", "unfit"] = Field(
        description="State of the live version. An `idle` version is loaded at its first request. `unfit`: no version "
        "is live, and the plain name answers 409 `no-live-version`."
    )
    reason: str | None = Field(description="Why it failed, or why no version is live.")
    unfit: list[UnfitReason] = Field(description="Why the version is unfit; empty if it is fit.")
    read_only: bool | None = Field(description="Whether the model ships with the product.")
    architecture: str | None = Field(description="Preset of the model, or the number of its layers if it has none.")
    kind: DensityKind | None = Field(
        description="What its log-likelihoods are a density of: `density` of the pixels, or `feature_density` of the "
        "features that a frozen network sees at places taken as independent, without bits/dim and samples."
    )
    image_shape: list[int] | None = Field(description="Channels, height, width.")
    fit: Fit | None = Field(
        None,
        description="What is done to images of other sizes. `tiles`: they keep their size and are scored tile by tile, "
        "and `image_shape` is that of a tile.",
    )
    test_bits_per_dim: float | None
    size_bytes: int | None = Field(description="Size of the live version's files.")
    drift_alarms: int = Field(
        0,
        description="Alarms of drift of the version: of all sources of images together and of each.",
    )


class ModelPage(Answer):
    """A page of registered models, with versions, aliases, loading state and quality of each."""

    models: list[ModelSummary]
    next: str | None = Field(None, description="Value of `after` for the next page; null for the last page.")


class Serving(Answer):
    """Settings by which a loaded model version computes scores: library, precision, and images at once."""

    engine: str = Field(description="The library that computes: openvino or torch; of a hybrid model for its pixels.")
    precision: Precision = Field(
        description="Arithmetic of the middle convolutions of coupling networks, that of the active calibration. All "
        "else is float32 or better."
    )
    tile: int = Field(description="Images that are computed at once, measured at the first load on this machine.")
    log_det_total: float = Field(description="Sum of the cached data-independent log-determinants, nats.")
    log_det_digest: str = Field(description="Digest of the weights of these log-determinants.")
    has_learned_inverse: bool
    smallest_p: float
    default_alpha: float


class ModelDetail(Answer):
    """A model version with its metadata, calibration and loading state.

    It also has the drift (change) of the images that were scored with it.
    """

    name: str
    version: int
    read_only: bool
    kind: DensityKind = Field(description="What its log-likelihoods are a density of, as in the list of models.")
    state: Literal["idle", "loading", "ready", "failed"]
    reason: str | None
    unfit: list[UnfitReason] = Field(description="Why it does not become live by itself; empty if it is fit.")
    size_bytes: int
    manifest: dict[str, Any] = Field(description="The manifest of the artifact on disk.")
    calibration: CalibrationView = Field(description="The active calibration.")
    serving: Serving | None = Field(description="Null until the version is loaded.")
    drift: list[Drift] = Field(
        description="Drift of all sources of images together first, then by source; each is absent until an image "
        "of it is scored."
    )


class AliasTarget(BaseModel):
    """Body of a request that points an alias of a model at one of the model's versions."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [{"version": 3}]})

    version: Whole = Field(ge=1, lt=10**9, description="A version of the model.")


class Aliases(Answer):
    """All aliases of a model after one of them was changed.

    Each alias has its version. The answer also has the former version of the changed alias, and why its new version is
    unfit, if it is.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [{"name": "line-1", "aliases": {"live": 3, "champion": 2}, "previous": 2, "unfit": []}]
        },
    )

    name: str
    aliases: dict[str, int] = Field(description="Version of each alias; `live` is the version of the plain name.")
    previous: int | None = Field(description="Former version of the alias; null for a new alias.")
    unfit: list[UnfitReason] = Field(description="Why the version of the alias is unfit; empty if it is fit.")
