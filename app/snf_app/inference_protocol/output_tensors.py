from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from snf_app.http.errors import invalid
from snf_app.inference_protocol.image_tensor import shown
from snf_app.inference_protocol.schemas import (
    AnswerParameters,
    BinarySize,
    InferAnswer,
    InferOutput,
    InferRequest,
    RequestedOutput,
)
from snf_app.registry.loaded import Loaded

if TYPE_CHECKING:
    from snf_runtime.anomaly.judged import JudgedImage

OUTPUTS = {"log_likelihood": "nats", "bits_per_dim": "bits per dimension", "p_value": "probability"}
"""The outputs, with their units."""
OUTPUT_TYPE = "FP64"


@dataclass(frozen=True)
class EncodedAnswer:
    """Body of an inference response: JSON, and the bytes of binary tensors if any."""

    json: bytes
    binary: bytes | None


def check_outputs(requested: Sequence[RequestedOutput]) -> None:
    """Raise a 422 error if an inference request asks for an unknown output, or for one output twice."""
    names = [output.name for output in requested]
    for name in names:
        if name not in OUTPUTS:
            raise invalid("/body/outputs", f"expected {', '.join(OUTPUTS)}, got {shown(name)}")
        if names.count(name) > 1:
            raise invalid("/body/outputs", f"expected each output once, got {name!r} {names.count(name)} times")


def encode(asked: InferRequest, judged: Sequence[JudgedImage], loaded: Loaded) -> EncodedAnswer:
    """Encode image scores as an inference response, with numbers in JSON or binary as the request asks."""
    default = asked.parameters is not None and asked.parameters.binary_data_output
    requested = asked.outputs or [RequestedOutput(name=name) for name in OUTPUTS]
    outputs: list[InferOutput] = []
    tensors: list[bytes] = []
    for output in requested:
        numbers = _numbers(output.name, judged)
        chosen = output.parameters.binary_data if output.parameters else None
        binary = default if chosen is None else chosen
        tensor = np.asarray(numbers, "<f8").tobytes()
        content: dict[str, Any] = {"data": numbers}
        if binary:
            content = {"parameters": BinarySize(binary_data_size=len(tensor))}
            tensors.append(tensor)
        described = {"name": output.name, "datatype": OUTPUT_TYPE, "shape": [len(judged)]}
        outputs.append(InferOutput.model_validate(described | content))
    echoed = {} if asked.id is None else {"id": asked.id}
    answer = InferAnswer(
        model_name=loaded.version.name,
        model_version=str(loaded.version.version),
        parameters=AnswerParameters(calibration=loaded.version.calibration),
        outputs=outputs,
        **echoed,
    )
    return EncodedAnswer(answer.model_dump_json(exclude_unset=True).encode(), b"".join(tensors) if tensors else None)


def _numbers(name: str, judged: Sequence[JudgedImage]) -> list[float]:
    """Return one number of each image; NaN for the bits per dimension of a feature model."""
    match name:
        case "log_likelihood":
            return [image.likelihood.log_likelihood for image in judged]
        case "p_value":
            return [image.verdict.p_value for image in judged]
        case _:
            bits = [image.likelihood.bits_per_dim for image in judged]
            return [math.nan if value is None else value for value in bits]
