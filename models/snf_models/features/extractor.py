"""Features of images by EfficientNet-Lite0 in torch, the reference for other engines."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from snf_models.features.backbones import BLOCKS, DEEPEST, STAGE_8, STAGE_16, Arrays, Backbone, same_padding
from snf_runtime.images.preprocessing import Pixels


class Lite0Network(nn.Module):
    def __init__(self, weights: Arrays, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._weights = {name: torch.from_numpy(array.copy()).to(dtype) for name, array in weights.items()}

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps at strides 8 and 16, and the one at stride 32, of ``(N, 3, H, W)``."""
        kept: dict[int, Tensor] = {}
        x = self._convolve("stem", x, stride=2).clamp(0, 6)
        for number, block in enumerate(BLOCKS):
            name, y = f"blocks.{number}", x
            if block.expansion > 1:
                y = self._convolve(f"{name}.expand", y).clamp(0, 6)
            y = self._convolve(f"{name}.depthwise", y, block.stride, groups=y.shape[1]).clamp(0, 6)
            y = self._convolve(f"{name}.project", y)
            x = x + y if block.residual else y
            if number in (STAGE_8, STAGE_16, DEEPEST):
                kept[number] = x
        return [kept[STAGE_8], kept[STAGE_16]], kept[DEEPEST]

    def _convolve(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        above, below = same_padding(x.shape[2], weight.shape[2], stride)
        left, right = same_padding(x.shape[3], weight.shape[3], stride)
        if above or below or left or right:
            x = nn.functional.pad(x, (left, right, above, below))
        return nn.functional.conv2d(x, weight, bias, stride, groups=groups)


SMOOTHING = 3  # side of the window, in places, that every map is averaged over


class FeatureExtractor(Protocol):
    """Function from images to features, which are the same in every batch."""

    @property
    def feature_shape(self) -> tuple[int, int, int]: ...

    @property
    def pooled(self) -> tuple[int, ...]: ...

    def __call__(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return features ``(N, C, rows, columns)`` and ``(N, K)`` of uint8 ``(N, 1 or 3, H, W)``."""
        ...


class TorchExtractor:
    """Feature extractor that runs EfficientNet-Lite0 in torch, the reference for other engines.

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
        """Return features at places, ``(N, C, rows, columns)``, and pooled ones, ``(N, K)``, as tensors."""
        maps, deepest = self._network(normalised(images, self.backbone, self.size, self._dtype))
        places = on_one_grid(maps, self.backbone)
        return places, torch.cat([places.mean((2, 3)), deepest.mean((2, 3))], 1)

    def __call__(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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
