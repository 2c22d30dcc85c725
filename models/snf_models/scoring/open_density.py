"""Opening of a model's density from its trained flows, over pixels, features or both."""

from __future__ import annotations

from snf_models.errors import EngineUnavailable
from snf_models.features.backbones import DEFAULT_FOLDER, BackboneStore
from snf_models.features.flows import FeatureFlows, FrozenFeatureFlows, TrainedFlows, freeze_features
from snf_models.flows.architecture import Architecture, features_of
from snf_models.flows.flow import Flow
from snf_models.scoring.engines.open import open_engine
from snf_models.scoring.engines.open_features import open_feature_engine
from snf_models.scoring.flow_density import FlowDensity
from snf_models.scoring.frozen import FrozenFlow, constant_log_dets, freeze, layers_with_log_det, require_invertible
from snf_models.scoring.options import EngineOptions
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.hybrid_density import HybridDensity

PIXELS, FEATURES = "pixels.", "features."
"""What the names of the layers of a hybrid model start with."""


def log_dets_of(flows: TrainedFlows, architecture: Architecture) -> dict[str, float]:
    """Return the image-independent log-dets by layer, in nats; ``SingularLayer`` if a layer has no inverse."""
    if isinstance(flows, FeatureFlows):
        return flows.log_dets()
    flow = flows if isinstance(flows, Flow) else flows.pixels
    require_invertible(flow, architecture.image_shape)
    pixels = constant_log_dets(flow, architecture.image_shape)
    if isinstance(flows, Flow):
        return pixels
    features = flows.features.log_dets()
    return {PIXELS + name: value for name, value in pixels.items()} | {
        FEATURES + name: value for name, value in features.items()
    }


def layers_with_log_dets(flows: TrainedFlows, architecture: Architecture) -> set[str]:
    """Return the names of layers whose log-det is stored, as it does not depend on the image."""
    if isinstance(flows, Flow):
        return layers_with_log_det(flows, architecture.image_shape)
    if isinstance(flows, FeatureFlows):
        return {name for name, _ in flows.layers()}
    pixels = layers_with_log_det(flows.pixels, architecture.image_shape)
    return {PIXELS + name for name in pixels} | {FEATURES + name for name, _ in flows.features.layers()}


def open_density(
    flows: TrainedFlows,
    architecture: Architecture,
    log_dets: dict[str, float],
    weights_digest: str,
    options: EngineOptions | None = None,
) -> ImageDensity:
    """Freeze the flows and open engines; ``EngineUnavailable``, ``BackboneMissing`` or ``UninitializedModel``."""
    options = options or EngineOptions()
    features = frozen_features(flows, log_dets)
    if features is not None and options.precision not in (None, "float32"):
        raise EngineUnavailable(f"expected precision float32 for a model with features, got {options.precision}")
    pixels = frozen_pixels(flows, architecture, log_dets)
    of_pixels = None if pixels is None else FlowDensity(open_engine(pixels, options), pixels, weights_digest)
    of_features = None if features is None else _open_features(features, architecture, weights_digest, options)
    if of_pixels is not None and of_features is not None:
        return HybridDensity(of_pixels, of_features)
    density = of_pixels or of_features
    assert density is not None
    return density


def frozen_pixels(flows: TrainedFlows, architecture: Architecture, log_dets: dict[str, float]) -> FrozenFlow | None:
    if isinstance(flows, Flow):
        return freeze(flows, architecture.image_shape, log_dets)
    if isinstance(flows, FeatureFlows):
        return None
    return freeze(flows.pixels, architecture.image_shape, _log_dets_of_part(log_dets, PIXELS))


def frozen_features(flows: TrainedFlows, log_dets: dict[str, float]) -> FrozenFeatureFlows | None:
    if isinstance(flows, FeatureFlows):
        return freeze_features(flows, log_dets)
    if isinstance(flows, Flow):
        return None
    return freeze_features(flows.features, _log_dets_of_part(log_dets, FEATURES))


def _log_dets_of_part(log_dets: dict[str, float], part: str) -> dict[str, float]:
    return {name.removeprefix(part): value for name, value in log_dets.items() if name.startswith(part)}


def open_pixels(
    flow: Flow,
    architecture: Architecture,
    log_dets: dict[str, float],
    weights_digest: str,
    options: EngineOptions | None = None,
) -> FlowDensity:
    frozen = freeze(flow, architecture.image_shape, log_dets)
    engine = open_engine(frozen, options)
    return FlowDensity(engine, frozen, weights_digest)


def _open_features(
    frozen: FrozenFeatureFlows, architecture: Architecture, weights_digest: str, options: EngineOptions
) -> FeatureDensity:
    described = features_of(architecture)
    assert described is not None
    store = BackboneStore(options.backbones or DEFAULT_FOLDER)
    backbone = store.by_digest(described.backbone, described.backbone_sha256)
    engine = open_feature_engine(store, backbone, described, frozen, options)
    return FeatureDensity(engine, frozen, weights_digest, described.image_shape, described.input_size, described.tiled)
