"""A small convolutional network as an ONNX file, written field by field, and the same network in torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from snf_models.features.backbones import Backbone, BackboneOutput

FLOAT, INTS = 1, 7
LAYERS = (("early", "image", 3, 6, 4), ("late", "early.relu", 6, 8, 2), ("deep", "late.relu", 8, 10, 2))
"""Name, input, input channels, output channels, and side and stride of the kernel of each convolution."""


def description(sha256: str, **changes: object) -> Backbone:
    """The description of the network of :func:`onnx_file`."""
    fields = {
        "name": "tiny",
        "format": "onnx",
        "sha256": sha256,
        "mean": (120.0, 110.0, 100.0),
        "deviation": (60.0, 61.0, 62.0),
        "multiple": 16,
        "smallest_side": 16,
        "maps": (BackboneOutput(name="early", channels=6, stride=4), BackboneOutput(name="late", channels=8, stride=8)),
        "pooled": BackboneOutput(name="deep", channels=10, stride=16),
    }
    return Backbone.model_validate({**fields, **changes})


def kernels() -> dict[str, NDArray[np.float32]]:
    """The kernel of each convolution."""
    random = np.random.default_rng(0)
    return {
        name: (random.standard_normal((outputs, inputs, side, side)) / side).astype(np.float32)
        for name, _, inputs, outputs, side in LAYERS
    }


def onnx_file(external: str = "") -> bytes:
    """The network as an ONNX file; ``external`` is the name of a file that holds the first kernel instead."""
    nodes, constants = [], []
    for name, source, _, _, side in LAYERS:
        constants.append(_tensor(f"{name}.kernel", kernels()[name], external if name == "early" else ""))
        sides = _field(1, "strides") + _field(8, side) + _field(8, side) + _field(20, INTS)
        nodes.append(
            _field(1, source) + _field(1, f"{name}.kernel") + _field(2, name) + _field(4, "Conv") + _field(5, sides)
        )
        nodes.append(_field(1, name) + _field(2, f"{name}.relu") + _field(4, "Relu"))
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "tiny")
    graph += b"".join(_field(5, tensor) for tensor in constants)
    graph += _field(11, _value("image", ["n", 3, "h", "w"])) + _field(12, _value("deep.relu", ["n", 10, "y", "x"]))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))


def reference(x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The maps and the deepest map of normalised images, in the arithmetic of ``x``."""
    found = {}
    for name, _, _, _, side in LAYERS:
        found[name] = functional.conv2d(x, torch.from_numpy(kernels()[name]).to(x.dtype), stride=side)
        x = found[name].relu()
    return [found["early"], found["late"]], found["deep"]


def _value(name: str, sides: Sequence[str | int]) -> bytes:
    shape = b"".join(_field(1, _field(2, side) if isinstance(side, str) else _field(1, side)) for side in sides)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, shape)))


def _tensor(name: str, values: NDArray[np.float32], external: str) -> bytes:
    head = b"".join(_field(1, side) for side in values.shape) + _field(2, FLOAT) + _field(8, name)
    if external:
        return head + _field(13, _field(1, "location") + _field(2, external)) + _field(14, 1)
    return head + _field(9, values.tobytes())


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
