"""Choice of the backend that runs flows over image features or extracts features to fit them."""

from __future__ import annotations

from models.errors import EngineUnavailable
from models.features.backbone import Backbone
from models.features.extractor import FeatureExtractor, TorchExtractor
from models.features.flows import FrozenFeatureFlows
from models.features.store import BackboneStore
from models.flows.architecture import FeatureArchitecture
from models.scoring.engines.torch_features import TorchFeatureEngine
from models.scoring.options import EngineOptions
from snf_runtime.scoring.feature_density import FeatureEngine


def open_feature_engine(
    store: BackboneStore,
    backbone: Backbone,
    architecture: FeatureArchitecture,
    flows: FrozenFeatureFlows,
    options: EngineOptions,
) -> FeatureEngine:
    """Return the engine, OpenVINO or PyTorch, that runs a backbone network and the flows over its features.

    It uses OpenVINO unless the options name torch.

    Args:
        store: The backbones of this machine.
        backbone: The backbone of the model.
        architecture: The architecture of the model.
        flows: Its frozen flows.
        options: Engine, device, threads and cache.

    Raises:
        EngineUnavailable: The device is not the CPU, or torch cannot run the backbone.
    """
    if _uses_openvino(backbone, options):
        from models.scoring.engines.openvino_feature_engine import feature_engine  # noqa: PLC0415 - OpenVINO takes time to load

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
    """Return a callable that computes features of images with a backbone network, for fitting flows.

    It uses the same backend as scoring.

    Args:
        store: The backbones of this machine.
        backbone: The backbone.
        image_shape: Channels, height and width of the images.
        size: Height and width to which they are enlarged.
        options: Engine, device, threads and cache.

    Raises:
        EngineUnavailable: The device is not the CPU, or torch cannot run the backbone.
    """
    if _uses_openvino(backbone, options):
        from models.scoring.engines.openvino_feature_engine import OpenVINOExtractor  # noqa: PLC0415 - as above

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
