"""Features of images by a backbone: preprocessing, forward pass, and the joining of maps on one grid."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from snf_models.features.backbone import Backbone
from snf_models.features.lite0 import Arrays
from snf_models.features.lite0_network import Lite0Network
from snf_runtime.images.preprocessing import Pixels

SMOOTHING = 3
"""Side of the window, in places, that every map is averaged over."""


class FeatureExtractor(Protocol):
    """Function from images to features, which are the same in every batch."""

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the features at places."""
        ...

    @property
    def pooled(self) -> tuple[int, ...]:
        """Number of pooled features of each group; their sum is K."""
        ...

    def __call__(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return features ``(N, C, rows, columns)`` and ``(N, K)`` of uint8 ``(N, 1 or 3, H, W)``."""
        ...


class TorchExtractor:
    """Feature extractor that runs EfficientNet-Lite0 in torch.

    It is the reference for other engines, and the extractor of the engine torch.

    Args:
        backbone: The description of EfficientNet-Lite0.
        weights: Its converted weights.
        size: Height and width to which images are enlarged.
        dtype: The arithmetic: float32 to score, float64 for a reference.
    """

    def __init__(
        self, backbone: Backbone, weights: Arrays, size: tuple[int, int], dtype: torch.dtype = torch.float32
    ) -> None:
        self.backbone = backbone
        self.size = size
        self.feature_shape = backbone.feature_shape(size)
        self.pooled = backbone.pooled_groups
        self._network = Lite0Network(weights, dtype).eval()
        self._dtype = dtype

    @torch.inference_mode()
    def features(self, images: Pixels) -> tuple[Tensor, Tensor]:
        """Return the feature map of each image and its pooled features (averages over the image), as tensors.

        The local features, those at each place, are ``(N, C, rows, columns)``. The pooled features are ``(N, K)``.
        """
        maps, deepest = self._network(normalised(images, self.backbone, self.size, self._dtype))
        places = on_one_grid(maps, self.backbone)
        return places, torch.cat([places.mean((2, 3)), deepest.mean((2, 3))], 1)

    def __call__(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features at places, ``(N, C, rows, columns)``, and the pooled ones, ``(N, K)``."""
        places, pooled = self.features(images)
        return places.float().numpy(), pooled.float().numpy()


def normalised(images: Pixels, backbone: Backbone, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Enlarge uint8 images ``(N, 1 or 3, H, W)`` and normalise them; return ``(N, 3, *size)``."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(dtype)
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if tuple(x.shape[2:]) != size:
        x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
    mean, deviation = (torch.tensor(part, dtype=dtype).view(1, 3, 1, 1) for part in (backbone.mean, backbone.deviation))
    return (x - mean) / deviation


def on_one_grid(maps: list[Tensor], backbone: Backbone) -> Tensor:
    """Average all maps over 3x3 places and onto the coarsest map; return ``(N, C, rows, columns)``."""
    brought = []
    for output, values in zip(backbone.maps, maps, strict=True):
        smooth = functional.avg_pool2d(values, SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)
        ratio = backbone.stride // output.stride
        brought.append(functional.avg_pool2d(smooth, ratio) if ratio > 1 else smooth)
    return torch.cat(brought, 1)
