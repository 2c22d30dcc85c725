"""EfficientNet-Lite0 in torch, in float32 or float64: the reference for other engines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snf_models.features.lite0 import BLOCKS, DEEPEST, STAGE_8, STAGE_16, Arrays, same_padding


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

    def logits(self, x: Tensor) -> Tensor:
        """Return ImageNet logits, ``(N, 1000)``, by which converted weights are checked."""
        _, deepest = self(x)
        pooled = self._convolve("head", deepest).clamp(0, 6).mean((2, 3))
        return nn.functional.linear(pooled, self._weights["classes.weight"], self._weights["classes.bias"])

    def _convolve(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        above, below = same_padding(x.shape[2], weight.shape[2], stride)
        left, right = same_padding(x.shape[3], weight.shape[3], stride)
        if above or below or left or right:
            x = nn.functional.pad(x, (left, right, above, below))
        return nn.functional.conv2d(x, weight, bias, stride, groups=groups)
