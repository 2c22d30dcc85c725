"""Body of an inference request: a JSON object, optionally followed by the bytes of binary tensors."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from snf_app.http.body_limit import BodyTooLarge, read_body
from snf_app.http.errors import Problem, field_problem, invalid, invalid_fields, malformed_json, unsupported_media_type
from snf_app.inference_protocol.schemas import InferRequest
from snf_runtime.images.policy import MAX_PIXELS
from snf_runtime.images.preprocessing import Preprocessing

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON object, where binary tensors follow it."""
MEDIA_TYPES = ("application/json", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of clients: some send none, and the last one is that of curl where it is given none."""
MAX_JSON_BYTES = 4 * 2**20
"""Largest JSON object. Parsing holds up all threads of the process, for some hundredths of a second at this size."""
MAX_LISTS = 2**17
"""Most lists and objects of it: a list takes ten times as long as a number. 1,024 images of 3x32x32 have 102,401."""
MAX_ERRORS = 100
"""Most wrong members of a request that are looked at one by one."""
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
        415,
        "unsupported-media-type",
        "Unsupported Media Type",
        f"the body is compressed as {encoding[:40]!r}; expected one that is not compressed",
        headers={"Accept-Encoding": "identity"},
    )
