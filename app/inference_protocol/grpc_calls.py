"""gRPC calls of the Open Inference Protocol, each answered by the equivalent HTTP call in this process.

So keys, roles, limits, deadlines, the scoring queue, metrics and logs are those of HTTP.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import grpc
import httpx
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.deadline import MAX_TIMEOUT_MS
from app.inference_protocol.error_answers import PREFIX
from app.inference_protocol.grpc_messages import CLASSES
from app.inference_protocol.request_body import HEADER_LENGTH, MAX_JSON_BYTES
from app.inference_protocol.schemas import MAX_DIMENSIONS, MAX_TENSORS
from app.state import AppState

WITHOUT_MESSAGE = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})
"""Methods whose messages have no members, and are not read."""
MAX_NAME = 200
"""Most characters of the name of a model."""
MAX_VALUES = MAX_JSON_BYTES // 5
"""Most values of a tensor as numbers: more do not fit into a JSON object."""
KEYS = ("authorization", "x-api-key")
"""Metadata of a call that are passed on as headers."""
RETURNED = ("retry-after",)
"""Headers of an error that are returned as trailing metadata."""
CODES = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC status of an HTTP status; INVALID_ARGUMENT and INTERNAL of the other ones."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class GrpcCalls:
    """Methods of the Open Inference Protocol's gRPC service, each answered by the equivalent HTTP call.

    The gRPC service is ``inference.GRPCInferenceService``.

    Args:
        app: The HTTP application.
        state: Its state, which a server of HTTP would add to each request.
        message_s: Seconds in which a client has to send its message.
    """

    def __init__(self, app: ASGIApp, state: AppState, message_s: float) -> None:
        self._app = app
        self._state = state
        self._message_s = message_s

    def handler(self, method: str) -> Callable[[AsyncIterator[bytes], Context], Awaitable[Any]]:
        """Return the async function that handles the calls of a gRPC method, such as ``ModelInfer``.

        It takes the messages of a call as bytes.

        A key is checked before a message is read: it may have megabytes, and take more to parse.
        """
        answer = getattr(self, method)

        async def handle(messages: AsyncIterator[bytes], context: Context) -> Any:
            if method in WITHOUT_MESSAGE:
                return await answer(None, context)
            await _raise_for_status(await self._get("", context), context)
            return await answer(await self._message(f"{method}Request", messages, context), context)

        return handle

    async def _message(self, name: str, messages: AsyncIterator[bytes], context: Context) -> Any:
        try:
            async with asyncio.timeout(self._message_s):
                return CLASSES[name].FromString(await anext(aiter(messages)))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"expected a message within {self._message_s:g} s")
        except (DecodeError, StopAsyncIteration):
            text = f"expected a message {name} that is not compressed, got none or other bytes"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)

    async def ServerLive(self, _asked: Any, context: Context) -> Any:  # noqa: N802 - the name of the protocol
        """Return whether the service process is running."""
        return CLASSES["ServerLiveResponse"](live=(await self._get("/health/live", context)).is_success)

    async def ServerReady(self, _asked: Any, context: Context) -> Any:  # noqa: N802
        """Return whether the service can score images."""
        return CLASSES["ServerReadyResponse"](ready=(await self._get("/health/ready", context)).is_success)

    async def ServerMetadata(self, _asked: Any, context: Context) -> Any:  # noqa: N802
        """Return the service's name, version and supported extensions of the Open Inference Protocol."""
        document = await self._document("", context)
        return CLASSES["ServerMetadataResponse"](**document)

    async def ModelReady(self, asked: Any, context: Context) -> Any:  # noqa: N802
        """Return whether a model can score images.

        An unknown model is an error.
        """
        answer = await self._get(f"{await _model(asked.name, asked.version, context)}/ready", context)
        if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            await _raise_for_status(answer, context)
        return CLASSES["ModelReadyResponse"](ready=answer.is_success)

    async def ModelMetadata(self, asked: Any, context: Context) -> Any:  # noqa: N802
        """Return a model's versions, and the names, types and shapes of its input and output tensors."""
        document = await self._document(await _model(asked.name, asked.version, context), context)
        kept = {name: document[name] for name in ("name", "versions", "platform")}
        tensors = {
            side: [{name: tensor[name] for name in ("name", "datatype", "shape")} for tensor in document[side]]
            for side in ("inputs", "outputs")
        }
        return CLASSES["ModelMetadataResponse"](**kept, **tensors)

    async def ModelInfer(self, asked: Any, context: Context) -> Any:  # noqa: N802
        """Score a tensor of images with a model, and return the scores as output tensors.

        The output tensors are sent as bytes, in ``raw_output_contents``.
        """
        await _check_counts(asked, context)
        described = json.dumps(_described(asked), separators=(",", ":")).encode()
        binary = b"".join(asked.raw_input_contents)
        headers = {HEADER_LENGTH: str(len(described))} if asked.raw_input_contents else {}
        path = f"{await _model(asked.model_name, asked.model_version, context)}/infer"
        answer = await self._send("POST", path, context, described + binary, headers)
        await _raise_for_status(answer, context)
        length = int(answer.headers[HEADER_LENGTH])
        return _response(json.loads(answer.content[:length]), answer.content[length:])

    async def _document(self, path: str, context: Context) -> dict[str, Any]:
        answer = await self._get(path, context)
        await _raise_for_status(answer, context)
        document: dict[str, Any] = answer.json()
        return document

    async def _get(self, path: str, context: Context) -> httpx.Response:
        return await self._send("GET", path, context, b"", {})

    async def _send(
        self, method: str, path: str, context: Context, content: bytes, headers: dict[str, str]
    ) -> httpx.Response:
        """Return the answer of the HTTP application to a call with the keys and the deadline of a gRPC call."""
        given = {name.lower(): value for name, value in context.invocation_metadata() or ()}
        headers |= {name: str(given[name]) for name in KEYS if name in given}
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            headers["X-Timeout-Ms"] = str(min(MAX_TIMEOUT_MS, max(1, round(remaining_s * 1000))))
        transport = httpx.ASGITransport(self._application, raise_app_exceptions=False, client=_peer(context.peer()))
        # The application ends the call at its deadline.
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:  # noqa: S113
            return await client.request(method, f"{PREFIX}{path}", content=content, headers=headers)

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = dict(self._state)
        await self._app(scope, receive, send)


async def _model(name: str, version: str, context: Context) -> str:
    """Return the path of a model or a version. End the call for a name that would be another path."""
    for text in (name, version or "1"):
        if text in ("", ".", "..") or "/" in text or len(text) > MAX_NAME:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"No such model: no model is named {text[:40]!r}")
    path = f"/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


async def _check_counts(asked: Any, context: Context) -> None:
    """End the call of an inference request with so many parts that it would take long to read it."""
    tensors = [*asked.inputs[: MAX_TENSORS + 1], *asked.outputs[: MAX_TENSORS + 1]]
    text = ""
    if max(len(asked.inputs), len(asked.outputs), len(asked.raw_input_contents)) > MAX_TENSORS:
        text = "expected one tensor, 'image', and at most three outputs"
    elif any(len(tensor.shape) > MAX_DIMENSIONS for tensor in asked.inputs):
        text = "expected a shape of four dimensions"
    elif any(len(part.parameters) > MAX_TENSORS for part in (asked, *tensors)):
        text = f"expected at most {MAX_TENSORS} parameters"
    elif sum(len(tensor.contents.uint_contents) for tensor in asked.inputs) > MAX_VALUES:
        text = f"expected at most {MAX_VALUES} values in uint_contents; send them as raw_input_contents"
    if text:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)


def _described(asked: Any) -> dict[str, Any]:
    """Return the JSON object of an inference request."""
    raw = list(asked.raw_input_contents)
    inputs: list[dict[str, Any]] = []
    for place, tensor in enumerate(asked.inputs):
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _values(tensor.parameters)
        if raw:
            parameters["binary_data_size"] = len(raw[place]) if place < len(raw) else 0
        if not raw or tensor.HasField("contents"):
            described["data"] = list(tensor.contents.uint_contents)
        inputs.append(described | {"parameters": parameters})
    outputs = [
        {"name": output.name, "parameters": _values(output.parameters) | {"binary_data": True}}
        for output in asked.outputs
    ]
    document = {"inputs": inputs, "parameters": _values(asked.parameters) | {"binary_data_output": True}}
    return document | ({"outputs": outputs} if outputs else {}) | ({"id": asked.id} if asked.id else {})


def _values(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, field)
        for name, value in parameters.items()
        if (field := value.WhichOneof("value")) is not None
    }


def _response(document: dict[str, Any], binary: bytes) -> Any:
    answer = CLASSES["ModelInferResponse"](
        model_name=document["model_name"], model_version=document["model_version"], id=document.get("id", "")
    )
    for name, value in document["parameters"].items():
        answer.parameters[name].int64_param = value
    for output in document["outputs"]:
        answer.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        size = output["parameters"]["binary_data_size"]
        answer.raw_output_contents.append(binary[:size])
        binary = binary[size:]
    return answer


async def _raise_for_status(answer: httpx.Response, context: Context) -> None:
    """End a call with the gRPC status of an HTTP error."""
    if answer.is_success:
        return
    code = CODES.get(HTTPStatus(answer.status_code))
    if code is None:
        code = grpc.StatusCode.INTERNAL if answer.is_server_error else grpc.StatusCode.INVALID_ARGUMENT
    trailing = tuple((name, answer.headers[name]) for name in RETURNED if name in answer.headers)
    is_json = answer.headers.get("content-type") == "application/json"
    await context.abort(code, answer.json()["error"] if is_json else f"HTTP status {answer.status_code}", trailing)


def _peer(text: str) -> tuple[str, int]:
    """Return address and port of a peer such as ``ipv4:10.0.0.5:4711`` or ``ipv6:%5B::1%5D:4711``."""
    address, _, port = unquote(text).partition(":")[2].rpartition(":")
    return address.strip("[]"), int(port) if port.isdigit() else 0


METHODS: Sequence[str] = tuple(name.removesuffix("Request") for name in CLASSES if name.endswith("Request"))
"""Names of the methods."""
