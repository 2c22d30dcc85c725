"""Messages of ONNX in the wire format of Protocol Buffers; only what graphs need."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DATA_TYPES = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9}
"""Numbers of the types of tensors by the names of NumPy."""
BFLOAT16 = 16
FLOAT, INT, STRING, INTS = 1, 2, 3, 7
"""Numbers of the types of attributes."""

Attribute = float | int | str | Sequence[int]


def field(number: int, value: int | str | bytes) -> bytes:
    """Return a field of a message: a whole number that is not negative, or text, bytes or another message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def node_message(kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Attribute]) -> bytes:
    """Return a node of a graph.

    Args:
        kind: The name of its operation.
        inputs: The names of its inputs; an empty one is left out.
        outputs: The names of its outputs.
        attributes: Its attributes.
    """
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    return names + field(4, kind) + b"".join(field(5, _attribute(*item)) for item in attributes.items())


def tensor_message(name: str, values: NDArray[np.generic]) -> bytes:
    """Return a constant tensor of a graph."""
    sides = b"".join(field(1, side) for side in values.shape)
    kind = DATA_TYPES[values.dtype.name]
    return sides + field(2, kind) + field(8, name) + field(9, np.ascontiguousarray(values).tobytes())


def value_message(name: str, kind: int, shape: Sequence[int]) -> bytes:
    """Return the name, the type of the tensor and the shape of an input or output of a graph."""
    sides = b"".join(field(1, field(1, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, sides)))


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, INT)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, STRING)
    if isinstance(value, float):
        return field(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + field(20, FLOAT)
    return field(1, name) + b"".join(field(8, item) for item in value) + field(20, INTS)


def _varint(value: int) -> bytes:
    if value < 0:
        raise ValueError(f"expected a number of at least 0, got {value}")
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
