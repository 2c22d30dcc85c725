from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from snf_app.http.errors import invalid
from snf_app.inference_protocol.schemas import InferInput
from snf_app.scoring.request_images import Pixels, too_many
from snf_runtime.images.preprocessing import Preprocessing

INPUT = "image"
INPUT_TYPE = "UINT8"
CHUNK = 2**16
"""Values that are converted at a time: other threads wait meanwhile."""


def image_shape(preprocessing: Preprocessing) -> list[int]:
    """Return the shape ``[N, C, H, W]`` of the image tensor that a model takes.

    -1 is a dimension of any size.

    >>> image_shape(Preprocessing(channels=1, height=28, width=28))
    [-1, 1, 28, 28]
    >>> image_shape(Preprocessing(channels=3, height=64, width=64, fit="tiles"))
    [-1, 3, -1, -1]
    """
    channels, height, width = preprocessing.shape
    return [-1, channels, -1, -1] if preprocessing.tiled else [-1, channels, height, width]


def image_input(inputs: Sequence[InferInput], preprocessing: Preprocessing, limit: int) -> InferInput:
    """Return the request's image tensor, its data unread; raise 422 for type or shape, 413 for too many images."""
    if len(inputs) != 1:
        raise invalid("/body/inputs", f"expected one tensor, {INPUT!r}, got {len(inputs)}")
    (given,) = inputs
    if given.name != INPUT:
        raise invalid("/body/inputs/0/name", f"expected {INPUT!r}, got {shown(given.name)}")
    if given.datatype != INPUT_TYPE:
        raise invalid("/body/inputs/0/datatype", f"expected {INPUT_TYPE!r}, got {shown(given.datatype)}")
    wanted = image_shape(preprocessing)
    sizes_fit = len(given.shape) == len(wanted) and all(
        size >= 1 if known == -1 else size == known for size, known in zip(given.shape, wanted, strict=True)
    )
    if not sizes_fit:
        raise invalid("/body/inputs/0/shape", f"expected {wanted} with at least one image, got {given.shape}")
    if given.shape[0] > limit:
        raise too_many(limit)
    return given


def pixels_of(given: InferInput, binary: memoryview) -> Pixels:
    """Return the pixels of a tensor that ``image_input`` has checked, uint8 ``(N, C, H, W)``; raise 422."""
    size = math.prod(given.shape)
    declared = given.parameters.binary_data_size if given.parameters else None
    if (given.data is None) == (declared is None):
        what = "neither" if given.data is None else "both"
        raise invalid("/body/inputs/0", f"expected data or parameters.binary_data_size, got {what}")
    if len(binary) != (declared or 0):
        raise invalid(
            "/body", f"expected {declared or 0} bytes of tensor data after the JSON object, got {len(binary)}"
        )
    if given.data is not None:
        values = _flat(given.data, given.shape)
        if len(values) != size:
            raise invalid("/body/inputs/0/data", f"expected {size} values for {given.shape}, got {len(values)}")
        binary = memoryview(b"".join(_bytes_of(values[start : start + CHUNK]) for start in range(0, size, CHUNK)))
    elif declared != size:
        raise invalid(
            "/body/inputs/0/parameters/binary_data_size", f"expected {size} bytes for {given.shape}, got {declared}"
        )
    return np.frombuffer(binary, np.uint8).reshape(given.shape)


def _flat(data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Return the values of a flat list, or of lists that are nested as ``shape`` says."""
    if not data or not isinstance(data[0], list):
        return data
    rows: list[Any] = [data]
    for axis, size in enumerate(shape):
        if not all(isinstance(row, list) and len(row) == size for row in rows):
            raise invalid(
                "/body/inputs/0/data", f"expected a flat list, or lists nested as {list(shape)}, whose lists on level "
                f"{axis + 1} have {size} items each"
            )  # fmt: skip
        rows = list(chain.from_iterable(rows))
    return rows


def _bytes_of(values: list[Any]) -> bytes:
    # True is an int to ``bytes``, so the types are compared first.
    if set(map(type, values)) <= {int}:
        try:
            return bytes(values)
        except ValueError:
            pass
    wrong = next(value for value in values if type(value) is not int or not 0 <= value <= 255)
    raise invalid("/body/inputs/0/data", f"expected whole numbers from 0 to 255, got {shown(wrong)}")


def shown(value: object) -> str:
    """Return a short text for an invalid value, to be shown in an error message."""
    match value:
        case list() | dict():
            return f"a {'list' if isinstance(value, list) else 'JSON object'}"
        case str():
            return repr(value[:40])
        case bool() | None:
            return str(value)
        case int() if value.bit_length() > 64:
            return f"an integer of {value.bit_length()} bits"
        case _:
            return repr(value)
