"""Small ONNX files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str]
"""Sides of a tensor: numbers, or names for any."""


def model(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    kind: int = TensorProto.FLOAT,
) -> bytes:
    """Return a file with a graph, whose weights become float32, and whose inputs have a number type."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    content: bytes = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]
    ).SerializeToString()
    return content


def node(operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """Return an operation with its inputs, its output, which also names it, and its attributes."""
    return helper.make_node(operation, inputs, [output], name=output, **attributes)
