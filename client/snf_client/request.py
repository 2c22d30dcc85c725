"""Description of a call to the service: its HTTP request, response parser and retry rule."""

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
    """Condition for sending a failed request again, for example only if no connection was made."""

    ALWAYS = "always"
    """The call is idempotent: sending it twice has the effect of sending it once."""
    REFUSED = "refused"
    """The service has refused the call or has never received it."""
    UNSENT = "unsent"
    """No connection was made: the body is too large to send twice."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """Description of one HTTP request to the service, which a transport such as ``SyncTransport`` sends.

    It includes the function that parses the response, and a retry rule.

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
        follow: Function that returns the call whose result replaces the first one, such as that for the next page of a
            list; None: there is none.
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
    follow: Callable[[T], Call[T] | None] | None = None


def path(*parts: str | int) -> str:
    """Return the URL path of an API endpoint: ``/v1/`` and the given segments, percent-encoded.

    The segments ``a`` and ``b`` give ``/v1/a/b``. The characters ``:`` and ``@`` stay.
    """
    return "/v1/" + "/".join(quote(str(part), safe=":@") for part in parts)


def query(**params: Any) -> dict[str, Any]:
    """Return the given parameters of a URL query as a dict, without those that are None.

    Booleans become "true" or "false".
    """
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if value is not None
    }


def all_pages(place: str, schema: type[M], entries: str, before: M | None = None) -> Call[M]:
    """Return a call that reads all pages of a list into one.

    Args:
        place: Path of the list.
        schema: Schema of a page, with the cursor ``next``.
        entries: Field with the entries of a page.
        before: The pages before, as one.
    """

    def parse(response: httpx.Response) -> M:
        page = read_json(schema)(response)
        earlier = [] if before is None else getattr(before, entries)
        return page.model_copy(update={entries: [*earlier, *getattr(page, entries)]})

    def follow(page: M) -> Call[M] | None:
        cursor = getattr(page, "next", None)
        return all_pages(place, schema, entries, page) if cursor not in (None, getattr(before, "next", None)) else None

    return Call("GET", place, parse, params=query(after=getattr(before, "next", None)), follow=follow)


def read_json(schema: type[M]) -> Callable[[httpx.Response], M]:
    """Return a function that parses the JSON body of an HTTP response into an object of type ``schema``.

    ``schema`` is a pydantic model.

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
    """Return the ``UnexpectedAnswer`` error for a response whose JSON does not have the expected format.

    Its message names the first wrong field.
    """
    [first, *_] = error.errors()
    where = ".".join(map(str, first["loc"])) or "its body"
    return UnexpectedAnswer(
        f"{response.url} answered no {expected} ({where}: {first['msg']}); check that the address is that of the "
        "service and that client and service have versions that fit"
    )


def read_bytes(media_type: str) -> Callable[[httpx.Response], bytes]:
    """Return a function that checks an HTTP response's media type and returns its body as bytes.

    Raises:
        UnexpectedAnswer: From the returned function, if the response is not of that media type.
    """
    return lambda response: _of_type(response, media_type).content


def read_text(media_type: str) -> Callable[[httpx.Response], str]:
    """Return a function that checks an HTTP response's media type and returns its body as text.

    The text is decoded by the charset in the headers of the response.

    Raises:
        UnexpectedAnswer: From the returned function, if the response is not of that media type.
    """
    return lambda response: _of_type(response, media_type).text


def _of_type(response: httpx.Response, media_type: str) -> httpx.Response:
    """Return the response if its body is of a media type, and raise ``UnexpectedAnswer`` otherwise.

    Some servers answer every address with a page.
    """
    given = response.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != media_type:
        raise UnexpectedAnswer(
            f"{response.url} answered {given or 'a body without a type'}, expected {media_type}; check that the "
            "address is that of the service"
        )
    return response


def read_nothing(_response: httpx.Response) -> None:
    """Ignore an HTTP response and return None, for calls without a result, such as deletions."""
