"""A call of the service as data: the request, how its response is read, and when it may be sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from snf_client.errors import UnexpectedAnswer

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class RetryWhen(Enum):
    """Condition under which a failed request may be sent again."""

    ALWAYS = "always"
    """The call is idempotent: sending it twice has the effect of sending it once."""
    REFUSED = "refused"
    """The service has refused the call or has never received it."""
    UNSENT = "unsent"
    """No connection was made: the body is too large to send twice."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request to the service, with the function that reads its response and the condition for retries.

    Args:
        method: HTTP method.
        path: Path of the request.
        parse: Function that turns a successful response into the result.
        params: Query parameters.
        headers: Headers of the request.
        body: Body, as keywords of ``httpx``: ``json``, ``content``, ``data`` or ``files``.
        open_body: Context manager that opens files and gives the body, instead of ``body``.
        save_to: File that the body of the response is written to; it appears once it is complete.
        retry_when: Condition for sending the call again.
        accept: Error statuses that count as success.
        read_timeout_s: Longest wait for the next bytes of the response, seconds. None: no limit. Negative: the
            timeout of the client.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    open_body: Callable[[], AbstractContextManager[Mapping[str, Any]]] | None = None
    save_to: Path | None = None
    retry_when: RetryWhen = RetryWhen.ALWAYS
    accept: tuple[int, ...] = ()
    read_timeout_s: float | None = -1.0


def path(*parts: str | int) -> str:
    """Return the URL path ``/v1/...`` from its segments, percent-encoded."""
    return "/v1/" + "/".join(quote(str(part), safe=":@") for part in parts)


def query(**params: Any) -> dict[str, Any]:
    """Return query parameters for a URL: None values are left out, and booleans are in lower case."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if value is not None
    }


def read_json(schema: type[M]) -> Callable[[httpx.Response], M]:
    """Return a function that parses the JSON body of a response into a pydantic model.

    Raises:
        UnexpectedAnswer: From the returned function, if the response does not fit the schema.
    """

    def parse(response: httpx.Response) -> M:
        try:
            return schema.model_validate_json(response.content)
        except ValidationError as error:
            raise unexpected(response, schema.__name__, error) from error

    return parse


def unexpected(response: httpx.Response, expected: str, error: ValidationError) -> UnexpectedAnswer:
    """Create the error for a response that does not have the expected JSON schema."""
    [first, *_] = error.errors()
    where = ".".join(map(str, first["loc"])) or "its body"
    return UnexpectedAnswer(
        f"{response.url} answered no {expected} ({where}: {first['msg']}); check that the address is that of the "
        "service and that client and service have versions that fit"
    )


def read_bytes(response: httpx.Response) -> bytes:
    """Return the body of a response as bytes."""
    return response.content


def read_text(response: httpx.Response) -> str:
    """Return the body of a response as text."""
    return response.text


def read_nothing(_response: httpx.Response) -> None:
    """Return None for a response without a body."""
