"""Requests and answers of the Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt

from snf_client.schemas.base import MAX_TIMEOUT_MS, SOURCE_PATTERN, RequestModel, ResponseModel

MAX_ID = 1024
"""Most characters of the id of a request, which its answer repeats."""
MAX_DIMENSIONS = 16
"""Most numbers of a shape that are read: an image tensor has four."""
MAX_TENSORS = 16
"""Most tensors of a request that are read: there is one input, and three outputs."""
Size = Annotated[StrictInt, Field(ge=-1, lt=2**63)]
"""A number of a shape, or of bytes."""


class InputParameters(RequestModel):
    """Parameters of an input tensor: its size in bytes if it is sent as binary data."""

    binary_data_size: Size | None = Field(
        None, description="Bytes of the tensor, which follow the JSON object in the body."
    )


class InferInput(RequestModel):
    """Image tensor of an inference request.

    Its values are in `data`, or follow the JSON object as bytes.
    """

    name: str = Field(description="`image`.", examples=["image"])
    shape: list[Size] = Field(
        max_length=MAX_DIMENSIONS,
        description="Images, channels, height and width. The model's metadata says which it takes.",
        examples=[[1, 1, 28, 28]],
    )
    datatype: str = Field(description="`UINT8`.", examples=["UINT8"])
    parameters: InputParameters | None = None
    data: list[Any] | None = Field(
        None,
        description="The pixel values, whole numbers from 0 to 255: a flat list in row-major order, or nested lists of "
        "the tensor's shape. Leave it out where the tensor is binary.",
    )


class OutputParameters(RequestModel):
    """Parameters of a requested output tensor: the choice between JSON and binary data."""

    binary_data: StrictBool | None = Field(
        None, description="Whether the answer has this output as bytes after the JSON object."
    )


class RequestedOutput(RequestModel):
    """Output tensor that an inference request asks for, such as the p-values of the images."""

    name: str = Field(description="`log_likelihood`, `bits_per_dim` or `p_value`.", examples=["p_value"])
    parameters: OutputParameters | None = None


class InferParameters(RequestModel):
    """Parameters of an inference request: output encoding, deadline and image source."""

    binary_data_output: StrictBool = Field(
        False,
        description="Whether the answer has its outputs as bytes after the JSON object, unless an output says so.",
    )
    timeout: StrictInt | None = Field(
        None,
        ge=0,
        le=MAX_TIMEOUT_MS * 1000,
        description="Deadline of the request in microseconds, from its arrival. 0: that of the service. With the "
        "header `X-Timeout-Ms` the earlier one holds.",
    )
    source: str | None = Field(
        None,
        pattern=SOURCE_PATTERN,
        description="Source of the images, such as a camera. Only images with a source count in the tests of drift.",
    )


class InferRequest(RequestModel):
    """Inference request: a tensor of images, and the names of the wanted outputs."""

    id: str | None = Field(None, max_length=MAX_ID, description="Name of the request, which the answer repeats.")
    model_name: str | None = Field(None, description="The model of the path, which some clients repeat.")
    parameters: InferParameters | None = None
    inputs: list[InferInput] = Field(max_length=MAX_TENSORS, description="One tensor, `image`.")
    outputs: list[RequestedOutput] | None = Field(
        None, max_length=MAX_TENSORS, description="The outputs of the answer, in this order. Default: all."
    )


class BinarySize(ResponseModel):
    """Size in bytes of an output tensor that is sent as binary data.

    The bytes follow the JSON object.
    """

    binary_data_size: int = Field(description="Bytes of the tensor: float64, little-endian.")


class InferOutput(ResponseModel):
    """Output tensor of an inference response, with one number per image.

    Its values are in `data`, or follow the JSON object as bytes.
    """

    name: Literal["log_likelihood", "bits_per_dim", "p_value"]
    datatype: Literal["FP64"]
    shape: list[int] = Field(description="Number of images.")
    parameters: BinarySize | None = None
    data: list[float | None] | None = Field(
        None, description="The values. NaN, which JSON lacks, is null: bits_per_dim of a feature model."
    )


class AnswerParameters(ResponseModel):
    """Parameters of an inference response: the number of the calibration used for its p-values."""

    calibration: int = Field(description="Number of the calibration of the p-values.")


class InferAnswer(ResponseModel):
    """Response to an inference request: the model version used, and the output tensors."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="That of the request; missing where it had none.")
    parameters: AnswerParameters
    outputs: list[InferOutput]


class TensorMetadata(ResponseModel):
    """Name, data type and shape of a model's input or output tensor.

    In the shape, -1 is a dimension of any size.
    """

    name: str
    datatype: Literal["UINT8", "FP64"]
    shape: list[int] = Field(examples=[[-1, 1, 28, 28]])
    parameters: dict[str, str] = Field(default={}, description="The unit of its values.")


class ModelParameters(ResponseModel):
    """Parameters in a model's metadata needed to interpret its scores, such as the default false-alarm rate."""

    kind: Literal["density", "feature_density"] = Field(
        description="What log-likelihoods are a density of: the pixels, or features at places taken as independent, "
        "without bits per dimension."
    )
    version: int = Field(description="The version that this is about.")
    calibration: int = Field(description="Number of its active calibration, which p-values are from.")
    smallest_p: float = Field(description="Smallest p-value that this calibration can give.")
    default_alpha: float = Field(description="False-alarm rate of verdicts: an anomaly has a p-value of at most this.")


class ModelMetadata(ResponseModel):
    """Metadata of a model: its versions, and its input and output tensors."""

    name: str
    versions: list[str] = Field(examples=[["1", "2"]])
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


class ServerMetadata(ResponseModel):
    """Metadata of the service: its name, version and extensions of the Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str] = Field(description="Extensions of the protocol that the service has.")


class ServerLive(ResponseModel):
    """Response of the liveness check, which says that the process is running."""

    live: Literal[True]


class ServerReady(ResponseModel):
    """Response of the readiness check, which says that the service can score images."""

    ready: Literal[True]


class ModelReady(ResponseModel):
    """Readiness answer for a model that can score images; for any other model the answer is an error."""

    name: str
    ready: Literal[True]
