"""Choice of the backend that runs flows over image features or extracts features to fit them."""

from __future__ import annotations

from snf_models.errors import EngineUnavailable
from snf_models.features.backbones import Backbone, BackboneStore
from snf_models.features.extractor import FeatureExtractor, TorchExtractor
from snf_models.features.flows import FrozenFeatureFlows
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.scoring.engines.torch_features import TorchFeatureEngine
from snf_models.scoring.options import EngineOptions
from snf_runtime.scoring.feature_density import FeatureEngine


def open_feature_engine(
    store: BackboneStore,
    backbone: Backbone,
    architecture: FeatureArchitecture,
    flows: FrozenFeatureFlows,
    options: EngineOptions,
) -> FeatureEngine:
    """Return OpenVINO unless the options name torch; raise ``EngineUnavailable`` for another device than a CPU."""
    if _uses_openvino(backbone, options):
        from snf_models.scoring.engines.openvino_feature_engine import feature_engine  # noqa: PLC0415 - OpenVINO takes time to load

        return feature_engine(
            store, backbone, architecture.image_shape, architecture.input_size, flows, options.threads, options.cache
        )
    extractor = TorchExtractor(backbone, store.arrays(backbone), architecture.input_size)
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
        from snf_models.scoring.engines.openvino_feature_engine import OpenVINOExtractor  # noqa: PLC0415 - as above

        return OpenVINOExtractor(store, backbone, image_shape, size, options.threads, options.cache)
    return TorchExtractor(backbone, store.arrays(backbone), size)


def _uses_openvino(backbone: Backbone, options: EngineOptions) -> bool:
    if options.device != "cpu":
        raise EngineUnavailable(f"expected device cpu for a model with features, got {options.device}")
    if options.name != "torch":
        return True
    if backbone.format == "onnx":
        raise EngineUnavailable(f"the backbone {backbone.name} is an ONNX file, which needs the engine openvino")
    return False
