"""Registered models: versions, aliases, audits, and drift of scored images."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from snf_client.schemas.base import DensityKind, Fit, Precision, RequestModel, ResponseModel, Whole
from snf_client.schemas.calibrations import CalibrationView


class Drift(ResponseModel):
    """Result of the drift test on all images of one source, such as a camera, or of all sources.

    It tells whether scored images still look like the calibration images, by a martingale: a capital of 1 is bet
    against that.

    Each image is ranked among the calibration images and all earlier images, by anomaly statistic and by white level:
    the smallest grey level that at least 99 % of its values do not exceed. Images of equal rank are ordered by chance.
    Of a calibration in folds, the statistic and the images are those of the first fold. Without drift a capital ever
    reaches c with a probability of at most 1 / c, however often it is looked at.
    """

    source: str | None = Field(description="Source of the images; null for all sources together.")
    images: int = Field(description="Images since the start, or since drift was last acknowledged.")
    since: datetime = Field(description="Time at which the first of them was scored.")
    quantity: Literal["statistic", "white-level"] = Field(
        description="What the highest capital was bet on: ranks of the anomaly statistic, or of the white level. There "
        "is no bet on white levels for a calibration made before they were stored."
    )
    log10_capital: float = Field(description="Decimal logarithm of the larger capital now; 0 at the start.")
    log10_highest: float = Field(description="Decimal logarithm of the highest capital so far.")
    log10_threshold: float = Field(
        description="Decimal logarithm of the capital that raises an alarm: the service's threshold, or twice that "
        "where white levels are known, because there are two capitals then."
    )
    alarm: bool = Field(
        description="Whether a capital has reached the threshold. The alarm lasts until it is acknowledged."
    )
    alarm_since: datetime | None = Field(description="Start of the alarm, while it lasts.")


class DriftReport(ResponseModel):
    """Drift of the images that a model version has scored: of all sources together, and of each source.

    The images are compared with those of the active calibration.
    """

    model: str
    version: int
    calibration: int = Field(description="The active calibration, with whose images the images are compared.")
    drift: list[Drift] = Field(
        description="All sources together first, then each source. Each is absent until an image of it is scored, also "
        "after it was acknowledged."
    )


UnfitCode = Literal["hardly-trained", "diverged", "learned-inverse-off"]
"""Stable name of a reason why a model is unfit."""


class UnfitReason(ResponseModel):
    """Reason why a model version is not fit to become the live (default) version automatically."""

    code: UnfitCode
    detail: str = Field(examples=["hardly trained: 2.0853 bits/dim on held-out images, not below the 1.9540 of ..."])


class ModelSummary(ResponseModel):
    """Summary of one registered model, as the list of models shows it.

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
        0, description="Alarms of drift of the version: of all sources of images together and of each."
    )


class ModelPage(ResponseModel):
    """A page of registered models, with versions, aliases, loading state and quality of each."""

    models: list[ModelSummary]
    next: str | None = Field(None, description="Value of `after` for the next page; null for the last page.")


class Serving(ResponseModel):
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


class ModelDetail(ResponseModel):
    """A model version with its metadata, calibration and loading state."""

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


class AliasTarget(RequestModel):
    """Body of a request that points an alias of a model at one of the model's versions."""

    version: Whole = Field(ge=1, lt=10**9, description="A version of the model.")


class Aliases(ResponseModel):
    """All aliases of a model after one of them was changed."""

    name: str
    aliases: dict[str, int] = Field(description="Version of each alias; `live` is the version of the plain name.")
    previous: int | None = Field(description="Former version of the alias; null for a new alias.")
    unfit: list[UnfitReason] = Field(description="Why the version of the alias is unfit; empty if it is fit.")


class AuditedImage(ResponseModel):
    """Log-likelihood of one image in an audit: as the service gives it, and recomputed in float64."""

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


class AuditedLayer(ResponseModel):
    """Log-determinant of one layer of a flow, as stored with the model and as recomputed in float64.

    It is log |det Jacobian|, which is equal for all images.
    """

    layer: str = Field(description="Its name; in a hybrid model it begins with `pixels.` or `features.`.")
    cached: float = Field(description="As stored with the model, nats.")
    recomputed: float = Field(description="Recomputed in float64, nats.")
    difference: float = Field(description="`cached` - `recomputed`, nats.")


class AuditedTotal(ResponseModel):
    """Sum of a model's log-determinants over its layers, as used in scores and as recomputed in float64.

    It is the log |det Jacobian| that is equal for all images. Its largest allowed difference is included.

    The sum is that of the layers whose log |det Jacobian| a score contains: in a hybrid model those of pixels, and for
    features `places.0`, of the fit to all images.
    """

    cached: float = Field(description="As used by scores, nats.")
    recomputed: float
    difference: float
    tolerance: float = Field(description="Largest allowed difference, nats: that of float32 in every precision.")


class Audit(ResponseModel):
    """Check of a model's log-likelihoods against a recomputation in float64, on up to 16 images.

    The log-likelihoods are compared as served. The log-determinants of the layers are compared, too. The recomputation
    uses no cached values.
    """

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
