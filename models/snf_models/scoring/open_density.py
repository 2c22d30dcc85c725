"""Opening of the density of trained flows, with the engines, of OpenVINO or torch, that run them."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from snf_models.bijections.frozen import Inverse
from snf_models.errors import EngineUnavailable
from snf_models.features.backbones import DEFAULT_FOLDER, Backbone, BackboneStore
from snf_models.features.extractor import FeatureExtractor, TorchExtractor
from snf_models.features.flows import FeatureFlows, FrozenFeatureFlows, HybridFlows, TrainedFlows, freeze_features
from snf_models.flows.architecture import Architecture, FeatureArchitecture, features_of
from snf_models.flows.flow import Flow
from snf_models.scoring import EngineOptions
from snf_models.scoring.cache import open_program
from snf_models.scoring.frozen import (
    FlowEngine,
    FrozenFlow,
    constant_log_dets,
    freeze,
    layers_with_log_det,
    require_invertible,
)
from snf_models.scoring.openvino_features import FeatureGraphs, open_network
from snf_models.scoring.openvino_graph import forward_graph, inverse_graph, supports_forward, supports_inverse
from snf_models.scoring.torch_engine import TorchEngine, TorchFeatureEngine
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeatureDensity, FeatureEngine, HybridDensity, joined_density
from snf_runtime.scoring.openvino_engine import OpenVINOFeatures, OpenVINOFlow, Program, core
from snf_runtime.scoring.pixel_density import PixelDensity

Array = NDArray[np.float64]


log = logging.getLogger(__name__)


class OpenVINOEngine(OpenVINOFlow):
    """OpenVINO engine of a flow and its inverse; an inverse without a graph is run by :class:`TorchEngine`."""

    def __init__(self, frozen: FrozenFlow, threads: int | None, cache: Path | None, *program: Any) -> None:
        super().__init__(frozen, *program)
        self.frozen = frozen
        self._open = partial(open_program, pixels=math.prod(frozen.image_shape[1:]), threads=threads, cache=cache)
        self._inverses: dict[Inverse, Program] = {}
        self._torch = TorchEngine(frozen, threads=threads)

    @classmethod
    def open(cls, frozen: FrozenFlow, threads: int | None = None, cache: Path | None = None) -> Self:
        """Compile the graph of the flow, or load it from the folder ``cache``."""
        make = partial(cls, frozen, threads, cache)
        pixels = math.prod(frozen.image_shape[1:])
        return open_program(make, lambda images: forward_graph(frozen, images), pixels, threads, cache)

    def inverse(self, scales: list[Array], inverse: Inverse) -> Array:
        if not supports_inverse(self.frozen):
            return self._torch.inverse(scales, inverse)
        if inverse not in self._inverses:
            self._inverses[inverse] = self._open(Program, lambda images: inverse_graph(self.frozen, images, inverse))
        (images,) = self._inverses[inverse].run([scale.astype(np.float32) for scale in scales])
        return images.astype(np.float64)


class OpenVINOExtractor(Program):
    """Extractor whose float32 features are exactly those that :class:`OpenVINOFeatures` computes."""

    def __init__(self, backbone: Backbone, size: tuple[int, int], *program: Any) -> None:
        super().__init__(*program)
        self.feature_shape = backbone.feature_shape(size)
        self.pooled = backbone.pooled_groups

    def __call__(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features at places, ``(N, C, rows, columns)``, and the pooled ones, ``(N, K)``."""
        places, pooled = self.run([images])
        return places, pooled


def open_engine(frozen: FrozenFlow, options: EngineOptions | None = None) -> FlowEngine:
    """Return OpenVINO on a CPU if it supports the flow, else torch, or what the options name."""
    options = options or EngineOptions()
    frozen = frozen.with_precision(options.precision or frozen.precision)
    if options.name == "torch" or options.device != "cpu":
        if options.name == "openvino":
            raise EngineUnavailable(
                f"expected device cpu with the engine openvino, got {options.device}: use the engine torch"
            )
        return TorchEngine(frozen, threads=options.threads, device=options.device)
    reason = openvino_obstacle(frozen)
    if reason is None:
        return OpenVINOEngine.open(frozen, options.threads, options.cache)
    if options.name == "openvino":
        raise EngineUnavailable(reason)
    log.info("using the engine torch: %s", reason)
    return TorchEngine(frozen, threads=options.threads)


def openvino_obstacle(frozen: FrozenFlow) -> str | None:
    """Return why OpenVINO cannot run a flow here, or None."""
    if not supports_forward(frozen):
        return "the flow has layers that the engine openvino does not support"
    if frozen.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU has no bfloat16 arithmetic"
    return None


def open_feature_engine(
    store: BackboneStore,
    backbone: Backbone,
    architecture: FeatureArchitecture,
    flows: FrozenFeatureFlows,
    options: EngineOptions,
) -> FeatureEngine:
    """Return OpenVINO unless the options name torch; raise ``EngineUnavailable`` for another device than a CPU."""
    size = architecture.input_size
    if _uses_openvino(backbone, options):
        graphs = FeatureGraphs(open_network(store, backbone), backbone, architecture.image_shape, size, flows)
        return open_program(OpenVINOFeatures, graphs, math.prod(size), options.threads, options.cache)
    extractor = TorchExtractor(backbone, store.arrays(backbone), size)
    return TorchFeatureEngine(extractor, flows, options.threads)


def open_extractor(
    store: BackboneStore,
    backbone: Backbone,
    image_shape: tuple[int, int, int],
    size: tuple[int, int],
    options: EngineOptions,
) -> FeatureExtractor:
    """Return what extracts features to fit flows, by the same backend as scoring."""
    if _uses_openvino(backbone, options):
        graphs = FeatureGraphs(open_network(store, backbone), backbone, image_shape, size)
        make = partial(OpenVINOExtractor, backbone, size)
        return open_program(make, graphs, math.prod(size), options.threads, options.cache)
    return TorchExtractor(backbone, store.arrays(backbone), size)


def _uses_openvino(backbone: Backbone, options: EngineOptions) -> bool:
    if options.device != "cpu":
        raise EngineUnavailable(f"expected device cpu for a model with features, got {options.device}")
    if options.name != "torch":
        return True
    if backbone.format == "onnx":
        raise EngineUnavailable(f"the backbone {backbone.name} is an ONNX file, which needs the engine openvino")
    return False


class FlowDensity(PixelDensity):
    """Density of pixels whose frozen flow is in memory, so that it can be sampled."""

    engine: FlowEngine
    frozen: FrozenFlow


def pixels_of(density: ImageDensity) -> FlowDensity | None:
    """Return the density of pixels with its flow; None for features alone, and for one opened from the cache."""
    pixels = density.pixels if isinstance(density, HybridDensity) else density
    return pixels if isinstance(pixels, FlowDensity) else None


PIXELS, FEATURES = "pixels.", "features."  # what the names of the layers of a hybrid model start with


def log_dets_of(flows: TrainedFlows, architecture: Architecture) -> dict[str, float]:
    """Return the image-independent log-dets by layer, in nats; ``SingularLayer`` if a layer has no inverse."""
    (before, pixels), (before_feature, features) = _parts(flows)
    log_dets: dict[str, float] = {}
    if pixels is not None:
        require_invertible(pixels, architecture.image_shape)
        of_pixels = constant_log_dets(pixels, architecture.image_shape)
        log_dets |= {before + name: value for name, value in of_pixels.items()}
    if features is not None:
        log_dets |= {before_feature + name: value for name, value in features.log_dets().items()}
    return log_dets


def layers_with_log_dets(flows: TrainedFlows, architecture: Architecture) -> set[str]:
    """Return the names of layers whose log-det is stored, as it does not depend on the image."""
    (before, pixels), (before_feature, features) = _parts(flows)
    of_pixels = set() if pixels is None else layers_with_log_det(pixels, architecture.image_shape)
    of_features = {name for name, _ in features.layers()} if features is not None else set()
    return {before + name for name in of_pixels} | {before_feature + name for name in of_features}


def _parts(flows: TrainedFlows) -> tuple[tuple[str, Flow | None], tuple[str, FeatureFlows | None]]:
    """Return the flows over pixels and features, None where missing, each after what its layers' names start with."""
    if isinstance(flows, HybridFlows):
        return (PIXELS, flows.pixels), (FEATURES, flows.features)
    return ("", flows if isinstance(flows, Flow) else None), ("", flows if isinstance(flows, FeatureFlows) else None)


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
    return joined_density(of_pixels, of_features)


def frozen_pixels(flows: TrainedFlows, architecture: Architecture, log_dets: dict[str, float]) -> FrozenFlow | None:
    (before, pixels), _ = _parts(flows)
    return None if pixels is None else freeze(pixels, architecture.image_shape, _log_dets_of_part(log_dets, before))


def frozen_features(flows: TrainedFlows, log_dets: dict[str, float]) -> FrozenFeatureFlows | None:
    _, (before, features) = _parts(flows)
    return None if features is None else freeze_features(features, _log_dets_of_part(log_dets, before))


def _log_dets_of_part(log_dets: dict[str, float], part: str) -> dict[str, float]:
    return {name.removeprefix(part): value for name, value in log_dets.items() if name.startswith(part)}


def _open_features(
    frozen: FrozenFeatureFlows, architecture: Architecture, weights_digest: str, options: EngineOptions
) -> FeatureDensity:
    described = features_of(architecture)
    assert described is not None
    store = BackboneStore(options.backbones or DEFAULT_FOLDER)
    backbone = store.by_digest(described.backbone, described.backbone_sha256)
    engine = open_feature_engine(store, backbone, described, frozen, options)
    return FeatureDensity(engine, frozen, weights_digest, described.image_shape, described.input_size, described.tiled)
