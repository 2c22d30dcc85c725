"""A small convolutional network as an ONNX file, and the same network in torch."""

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor
from torch.nn import functional

from snf_models.features.backbones import Backbone, BackboneOutput
from tests.support.onnx_files import model, node

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
    nodes = []
    for name, source, _, _, side in LAYERS:
        nodes.append(node("Conv", [source, f"{name}.kernel"], name, strides=[side, side]))
        nodes.append(node("Relu", [name], f"{name}.relu"))
    weights = {f"{name}.kernel": kernel for name, kernel in kernels().items()}
    content = model(nodes, weights, {"image": ["n", 3, "h", "w"]}, ["deep.relu"])
    if not external:
        return content
    file = onnx.load_from_string(content)
    set_external_data(file.graph.initializer[0], external)
    file.graph.initializer[0].ClearField("raw_data")
    changed: bytes = file.SerializeToString()
    return changed


def reference(x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The maps and the deepest map of normalised images, in the arithmetic of ``x``."""
    found = {}
    for name, _, _, _, side in LAYERS:
        found[name] = functional.conv2d(x, torch.from_numpy(kernels()[name]).to(x.dtype), stride=side)
        x = found[name].relu()
    return [found["early"], found["late"]], found["deep"]
