"""OpenVINO engine for a backbone with flows over its features, and an extractor of features."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snf_models.bijections.base import Shape
from snf_models.features.backbones import Backbone, BackboneStore
from snf_models.features.flows import FrozenFeatureFlows
from snf_models.scoring.engines.compiled_cache import open_program
from snf_models.scoring.engines.openvino_backbone import open_network
from snf_models.scoring.engines.openvino_feature_graph import FeatureGraphs
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.engines.openvino_features import OpenVINOFeatureEngine


def feature_engine(
    store: BackboneStore,
    backbone: Backbone,
    image_shape: Shape,
    input_size: tuple[int, int],
    flows: FrozenFeatureFlows,
    threads: int | None = None,
    cache: Path | None = None,
) -> OpenVINOFeatureEngine:
    """Return the engine; raise ``BackboneUnfit`` for damaged weights or outputs that are not as described."""
    graphs = FeatureGraphs(open_network(store, backbone), backbone, image_shape, input_size, flows)
    return OpenVINOFeatureEngine(open_program(graphs, math.prod(input_size), threads, cache))


class OpenVINOExtractor:
    """Extractor whose float32 features are exactly those that :class:`OpenVINOFeatureEngine` computes."""

    def __init__(
        self,
        store: BackboneStore,
        backbone: Backbone,
        image_shape: Shape,
        input_size: tuple[int, int],
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self.feature_shape = backbone.feature_shape(input_size)
        self.pooled = backbone.pooled_groups
        graphs = FeatureGraphs(open_network(store, backbone), backbone, image_shape, input_size)
        self._program = open_program(graphs, math.prod(input_size), threads, cache)

    def __call__(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features at places, ``(N, C, rows, columns)``, and the pooled ones, ``(N, K)``."""
        places, pooled = self._program([images])
        return places, pooled
