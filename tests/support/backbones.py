"""Backbones for tests: EfficientNet-Lite0, converted once in a test run, and tiny networks in ONNX files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snf_models.disk import locked
from snf_models.features.backbones import BackboneStore
from snf_worker.sandbox.uploads import add_lite0
from tests.support.onnx_files import model, node
from tests.support.paths import shared_folder

TINY: dict[str, Any] = {
    "mean": [127.0, 127.0, 127.0],
    "deviation": [128.0, 128.0, 128.0],
    "multiple": 16,
    "smallest_side": 32,
    "maps": [{"name": "fine", "channels": 4, "stride": 4}, {"name": "coarse", "channels": 6, "stride": 8}],
    "pooled": {"name": "deep", "channels": 8, "stride": 16},
    "license": "CC0-1.0",
    "origin": "random weights",
}
"""Description of ``tiny_onnx``, as a user would write it."""


def backbone_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder of backbones with EfficientNet-Lite0, converted by the first process that needs it."""
    folder = shared_folder(factory) / "backbones"
    with locked(folder.with_name("backbones-lock")):
        add_lite0(BackboneStore(folder))
    return folder


def tiny_onnx(seed: int = 0, batch: int | str = "N", side: int | str = "side") -> bytes:
    """Return an ONNX file with three convolutions and the outputs ``fine``, ``coarse`` and ``deep``."""
    return described_onnx(TINY, seed, batch, side)


def described_onnx(
    description: dict[str, Any], seed: int = 0, batch: int | str = "N", side: int | str = "side"
) -> bytes:
    """Return an ONNX file with a convolution of random weights for each output that a description names."""
    generator = np.random.default_rng(seed)
    outputs = [*description["maps"], description["pooled"]]
    nodes, weights, before, inputs, reached = [], {}, "image", 3, 1
    for output in outputs:
        name, channels, stride = output["name"], output["channels"], output["stride"] // reached
        weights[f"{name}.weight"] = generator.normal(size=(channels, inputs, stride, stride)) / stride
        nodes.append(node("Conv", [before, f"{name}.weight"], f"{name}.sum", strides=[stride, stride]))
        nodes.append(node("Relu", [f"{name}.sum"], name))
        before, inputs, reached = name, channels, output["stride"]
    return model(nodes, weights, {"image": (batch, 3, side, side)}, [output["name"] for output in outputs])
