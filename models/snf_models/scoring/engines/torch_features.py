"""Engine that runs a backbone and the flows over its features with torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.artifacts.manifest import Precision
from snf_models.bijections.frozen import FrozenStep
from snf_models.features.extractor import TorchExtractor
from snf_models.features.flows import FrozenFeatureFlows, sums_of_groups
from snf_models.threads import torch_threads
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.scoring.engines.tiles import DEFAULT_TILE

Array = NDArray[np.float64]


class TorchFeatureEngine:
    """Engine of a backbone (in its extractor's type) and its flows (float64), in tiles: a batch changes no bit."""

    name = "torch"
    precision: Precision = "float32"
    tile = DEFAULT_TILE

    def __init__(self, extractor: TorchExtractor, flows: FrozenFeatureFlows, threads: int | None = None) -> None:
        self._extractor = extractor
        self._flows = flows
        self.threads = threads or torch.get_num_threads()

    @torch.inference_mode()
    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return ||z||² over channels at places ``(N, fits, rows, columns)`` and pooled ``(N, fits, groups)``."""
        count, fits = len(images), len(self._flows.places)
        places = np.empty((count, fits, *self._flows.feature_shape[1:]))
        pooled = np.empty((count, fits, len(self._flows.groups)))
        with torch_threads(self.threads):
            for start in range(0, count, self.tile):
                some = images[start : start + self.tile]
                filled = np.concatenate([some, np.repeat(some[-1:], self.tile - len(some), 0)])
                features, whole = (part.double() for part in self._extractor.features(filled))
                for fit in range(fits):
                    of_places = _squares(features, self._flows.places[fit], *self._flows.steps).sum(1)
                    of_whole = _squares(whole[:, :, None, None], self._flows.pooled[fit]).flatten(1)
                    of_groups = sums_of_groups(of_whole, self._flows.groups)
                    places[start : start + len(some), fit] = of_places[: len(some)].numpy()
                    pooled[start : start + len(some), fit] = of_groups[: len(some)].numpy()
        return places, pooled


def _squares(x: Tensor, *steps: FrozenStep) -> Tensor:
    for step in steps:
        x, _ = step.forward(x)
    return x.square()
