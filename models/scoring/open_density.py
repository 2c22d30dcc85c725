"""The density of a model, from its trained flows: over pixels, over features, or both."""

from __future__ import annotations

from models.errors import EngineUnavailable
from models.features.flows import FeatureFlows, HybridFlows, TrainedFlows, freeze_features
from models.features.store import DEFAULT_FOLDER, BackboneStore
from models.flows.architecture import Architecture, FeatureArchitecture, HybridArchitecture
from models.flows.flow import Flow
from models.scoring.engines import open_engine
from models.scoring.engines.open_features import open_feature_engine
from models.scoring.flow_density import FlowDensity
from models.scoring.frozen import constant_log_dets, freeze, layers_with_log_det, require_invertible
from models.scoring.options import EngineOptions
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.hybrid_density import HybridDensity

PIXELS, FEATURES = "pixels.", "features."
"""What the names of the layers of a hybrid model start with."""


def log_dets_of(flows: TrainedFlows, architecture: Architecture) -> dict[str, float]:
    """Return the log-dets that are the same for all images, by layer name, in nats, computed in float64.

    Raises:
        SingularLayer: A layer over pixels has no inverse in float64.
    """
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
    """Return the names of the layers whose log-det is the same for all images and is stored with the model."""
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
    """Return the density of a model, frozen, with the engines that run it.

    Args:
        flows: The trained flows.
        architecture: Their architecture.
        log_dets: The stored log-dets of the layers by name, in nats.
        weights_digest: SHA-256 of the weights, in hexadecimal.
        options: Options of the engines.

    Raises:
        EngineUnavailable: An engine cannot run here.
        BackboneMissing: The backbone of a feature model is not installed here.
        UninitializedModel: A layer has not been initialised.
    """
    options = options or EngineOptions()
    if isinstance(flows, Flow):
        return open_pixels(flows, architecture, log_dets, weights_digest, options)
    if options.precision not in (None, "float32"):
        raise EngineUnavailable(f"expected precision float32 for a model with features, got {options.precision}")
    if isinstance(flows, FeatureFlows):
        assert isinstance(architecture, FeatureArchitecture)
        return _open_features(flows, architecture, log_dets, weights_digest, options)
    assert isinstance(flows, HybridFlows)
    assert isinstance(architecture, HybridArchitecture)
    of_pixels = {name.removeprefix(PIXELS): value for name, value in log_dets.items() if name.startswith(PIXELS)}
    of_features = {name.removeprefix(FEATURES): value for name, value in log_dets.items() if name.startswith(FEATURES)}
    return HybridDensity(
        open_pixels(flows.pixels, architecture.pixels, of_pixels, weights_digest, options),
        _open_features(flows.features, architecture.features, of_features, weights_digest, options),
    )


def open_pixels(
    flow: Flow,
    architecture: Architecture,
    log_dets: dict[str, float],
    weights_digest: str,
    options: EngineOptions | None = None,
) -> FlowDensity:
    """Return the density of pixels by a trained flow, frozen; the arguments are those of :func:`open_density`."""
    frozen = freeze(flow, architecture.image_shape, log_dets)
    engine = open_engine(frozen, options)
    return FlowDensity(engine, frozen, weights_digest)


def _open_features(
    flows: FeatureFlows,
    architecture: FeatureArchitecture,
    log_dets: dict[str, float],
    weights_digest: str,
    options: EngineOptions,
) -> FeatureDensity:
    store = BackboneStore(options.backbones or DEFAULT_FOLDER)
    backbone = store.by_digest(architecture.backbone, architecture.backbone_sha256)
    frozen = freeze_features(flows, log_dets)
    engine = open_feature_engine(store, backbone, architecture, frozen, options)
    return FeatureDensity(
        engine, frozen, weights_digest, architecture.image_shape, architecture.input_size, architecture.tiled
    )
