"""Writer of small ONNX files: the few messages of its protobuf schema that tests need, without the package `onnx`."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FLOAT = 1
Shape = Sequence[int | str]
"""Sides of a tensor: numbers, or names for any."""


def model(
    nodes: Sequence[bytes],
    weights: Mapping[str, NDArray[np.float64]],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    kind: int = FLOAT,
) -> bytes:
    """Return a file with a graph, whose weights become float32."""
    graph = b"".join(
        [
            *(message(1, content) for content in nodes),
            text(2, "graph"),
            *(message(5, tensor(name, array)) for name, array in weights.items()),
            *(message(11, value(name, shape, kind)) for name, shape in inputs.items()),
            *(message(12, value(name, None, FLOAT)) for name in outputs),
        ]
    )
    opset = text(1, "") + number(2, 13)
    return number(1, 8) + message(8, opset) + message(7, graph)


def node(operation: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    """Return an operation with its inputs, its output, which also names it, and its attributes."""
    parts = [*(text(1, name) for name in inputs), text(2, output), text(3, output), text(4, operation)]
    return b"".join([*parts, *(message(5, content) for content in attributes)])


def attribute(name: str, values: Sequence[int]) -> bytes:
    """Return an attribute with a list of whole numbers."""
    return text(1, name) + b"".join(number(8, value) for value in values) + number(20, 7)


def tensor(name: str, array: NDArray[np.float64]) -> bytes:
    """Return a constant."""
    dims = b"".join(number(1, side) for side in array.shape)
    return dims + number(2, FLOAT) + text(8, name) + message(9, array.astype("<f4").tobytes())


def value(name: str, shape: Shape | None, kind: int) -> bytes:
    """Return an input or output with its number type and shape; None leaves the shape open."""
    typed = number(1, kind)
    if shape is not None:
        sides = [number(1, side) if isinstance(side, int) else text(2, side) for side in shape]
        typed += message(2, b"".join(message(1, side) for side in sides))
    return text(1, name) + message(2, message(1, typed))


def number(field: int, content: int) -> bytes:
    """Return a field with a whole number."""
    return _varint(field << 3) + _varint(content)


def text(field: int, content: str) -> bytes:
    """Return a field with a text."""
    return message(field, content.encode())


def message(field: int, content: bytes) -> bytes:
    """Return a field with bytes, such as those of a message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(content: int) -> bytes:
    parts = bytearray()
    while content > 0x7F:
        parts.append(content & 0x7F | 0x80)
        content >>= 7
    return bytes([*parts, content])
