"""Inference requests: their tensors, and the answers with scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from snf_app.access.authentication import take_images
from snf_app.http.admission import BodyTooLarge, read_body, while_connected
from snf_app.http.errors import Problem, field_problem, invalid, invalid_fields, malformed_json, unsupported_media_type
from snf_app.registry.model_pool import ServedModel
from snf_app.scoring.request_images import Pixels, too_many
from snf_app.scoring.service import ScoringService
from snf_client.schemas.inference import (
    AnswerParameters,
    BinarySize,
    InferAnswer,
    InferInput,
    InferOutput,
    InferParameters,
    InferRequest,
    RequestedOutput,
)
from snf_client.schemas.scores import ScoreQuery
from snf_models.errors import ImageError
from snf_runtime.images.files import MAX_PIXELS
from snf_runtime.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from snf_runtime.anomaly.detection import Detection


INPUT = "image"
INPUT_TYPE = "UINT8"
CHUNK = 2**16  # values that are converted at a time: other threads wait meanwhile


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


OUTPUTS = {"log_likelihood": "nats", "bits_per_dim": "bits per dimension", "p_value": "probability"}
"""The outputs, with their units."""
OUTPUT_TYPE = "FP64"


def check_outputs(requested: Sequence[RequestedOutput]) -> None:
    """Raise a 422 error if an inference request asks for an unknown output, or for one output twice."""
    names = [output.name for output in requested]
    for name in names:
        if name not in OUTPUTS:
            raise invalid("/body/outputs", f"expected {', '.join(OUTPUTS)}, got {shown(name)}")
        if names.count(name) > 1:
            raise invalid("/body/outputs", f"expected each output once, got {name!r} {names.count(name)} times")


def encode(asked: InferRequest, judged: Sequence[Detection], loaded: ServedModel) -> Response:
    """Return image scores as an inference response, with numbers in JSON or binary as the request asks."""
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
    body = answer.model_dump_json(exclude_unset=True).encode()
    if not tensors:
        return Response(body, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(body))}
    return Response(body + b"".join(tensors), headers=headers, media_type="application/octet-stream")


def _numbers(name: str, judged: Sequence[Detection]) -> list[float]:
    """Return one number of each image; NaN for the bits per dimension of a feature model."""
    match name:
        case "log_likelihood":
            return [image.likelihood.log_likelihood for image in judged]
        case "p_value":
            return [image.verdict.p_value for image in judged]
        case _:
            bits = [image.likelihood.bits_per_dim for image in judged]
            return [math.nan if value is None else value for value in bits]


HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON object, where binary tensors follow it."""
MEDIA_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of clients: some send none, and the last one is that of curl where it is given none."""
MAX_JSON_BYTES = 4 * 2**20
"""Largest JSON object. Parsing holds up all threads of the process, for some hundredths of a second at this size."""
MAX_LISTS = 2**17
"""Most lists and objects of it: a list takes ten times as long as a number. 1,024 images of 3x32x32 have 102,401."""
MAX_ERRORS = 100  # most wrong members of a request that are looked at one by one
ADVICE = "send the tensor as binary data"


@dataclass(frozen=True)
class InferBody:
    """Bytes of the JSON object of a request, and a view of the binary tensors after it, which may be empty."""

    json: bytes
    binary: memoryview


async def read_infer_body(request: Request, preprocessing: Preprocessing, limit: int) -> InferBody:
    """Read a body without parsing it; raise ``BodyTooLarge`` past the model's tensor, 415 or 422."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and media_type not in MEDIA_TYPES:
        raise unsupported_media_type(media_type, MEDIA_TYPES)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise _compressed(encoding)
    given = request.headers.get(HEADER_LENGTH)
    if given is None:
        return InferBody(await read_body(request, MAX_JSON_BYTES, ADVICE), memoryview(b""))
    length = _json_length(given)
    pixels = MAX_PIXELS if preprocessing.tiled else limit * preprocessing.height * preprocessing.width
    body = await read_body(request, length + pixels * preprocessing.channels)
    if length > len(body):
        raise invalid(f"/header/{HEADER_LENGTH}", f"expected at most the {len(body)} bytes of the body, got {length}")
    return InferBody(body[:length], memoryview(body)[length:])


def parse_request(body: InferBody) -> InferRequest:
    """Validate the JSON object of a request; raise 400 if it is not JSON, and 422 if it is wrong."""
    if (lists := body.json.count(b"[") + body.json.count(b"{")) > MAX_LISTS:
        raise invalid("/body", f"expected at most {MAX_LISTS} lists and objects, got {lists}; {ADVICE}, or flat")
    try:
        document = from_json(body.json)
    except ValueError as error:
        detail = f"expected valid JSON: {error}"
        if not body.binary:
            detail += f"; binary tensors after it need the header {HEADER_LENGTH}"
        raise malformed_json(detail) from error
    try:
        return InferRequest.model_validate(document)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:  # listing them all takes seconds
            raise invalid("/body", f"expected an inference request, got over {MAX_ERRORS} wrong members") from error
        fields = [field_problem(item, ("body",)) for item in error.errors(include_url=False)[:10]]
        raise invalid_fields(fields) from error


def _json_length(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise invalid(f"/header/{HEADER_LENGTH}", f"expected a number of bytes, got {given[:40]!r}")
    length = int(given)
    if length > MAX_JSON_BYTES:
        raise BodyTooLarge(MAX_JSON_BYTES, ADVICE)
    return length


def _compressed(encoding: str) -> Problem:
    return Problem(
        "unsupported-media-type",
        f"the body is compressed as {encoding[:40]!r}; expected one that is not compressed",
        headers={"Accept-Encoding": "identity"},
    )


MAX_PARSED = 64 * 1024
"""Largest JSON object that is parsed on the event loop; a larger one waits for its turn among those of all callers."""
MAX_NAMED = 10  # most images without a score that an error names


async def infer(scoring: ScoringService, ref: str, request: Request, timeout_ms: int | None) -> Response:
    """Score the tensor in a request's body; raise ``Problem``, or ``ImageError`` if an image has no score."""
    async with scoring.admit(request.scope, ref, ScoreQuery(), timeout_ms) as admission:
        preprocessing, name = admission.loaded.scorer.preprocessing, admission.loaded.version.name
        body = await read_infer_body(request, preprocessing, admission.limit)
        await admission.held.enter_async_context(while_connected(request))

        def parse(body: InferBody) -> tuple[InferRequest, Pixels]:
            asked = parse_request(body)
            check_outputs(asked.outputs or ())
            if asked.model_name not in (None, name, ref):
                raise invalid("/body/model_name", f"expected {name!r}, the model of the path, or none")
            return asked, pixels_of(image_input(asked.inputs, preprocessing, admission.limit), body.binary)

        if len(body.json) <= MAX_PARSED:
            asked, images = parse(body)
        else:
            [(asked, images)] = await scoring.queue.decode(admission.caller, parse, [body], [len(body.json)])
        parameters = asked.parameters or InferParameters()
        if parameters.timeout:
            admission.time.ask(parameters.timeout / 1e6)
        query = ScoreQuery(source=parameters.source)
        if preprocessing.tiled:
            scoring.hold_large(admission, query, images.shape[0] * images.shape[2] * images.shape[3])
        take_images(request.scope, len(images))
        judgements = await scoring.detect(admission, list(images), query)
    judged = _all_scored(judgements)
    scoring.record(admission.loaded, query, judgements)
    return encode(asked, judged, admission.loaded)


def _all_scored(judgements: Sequence[Detection | ImageError]) -> list[Detection]:
    """Return the results of all images; raise the first error where one has none, as a tensor cannot say so."""
    judged = [image for image in judgements if not isinstance(image, ImageError)]
    errors = {str(index): image for index, image in enumerate(judgements) if isinstance(image, ImageError)}
    if errors:
        first, numbers = next(iter(errors.values())), list(errors)
        more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
        raise ImageError(
            first.slug,
            first.title,
            f"image {', '.join(numbers[:MAX_NAMED])}{more} of {len(judgements)} (counted from 0): {first.detail}; send "
            "the others without it",
        )
    return judged
