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
    """One HTTP request, not sent yet, with the parser of its response and a retry rule."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)  # keywords of httpx: json, content, data or files
    open_body: Callable[[], AbstractContextManager[Mapping[str, Any]]] | None = None  # opens files and gives the body
    save_to: Path | None = None  # appears once it is complete
    retry_when: RetryWhen = RetryWhen.ALWAYS
    accept: tuple[int, ...] = ()  # error statuses that count as success
    read_timeout_s: float | None = -1.0  # None: no limit; negative: that of the client
    follow: Callable[[T], Call[T] | None] | None = None  # gives the call whose result replaces this one


def path(*parts: str | int) -> str:
    """Return ``/v1/`` and the percent-encoded segments, in which ``:`` and ``@`` stay."""
    return "/v1/" + "/".join(quote(str(part), safe=":@") for part in parts)


def query(**params: Any) -> dict[str, Any]:
    """Return the parameters that are not None, with booleans as "true" or "false"."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if value is not None
    }


def all_pages(place: str, schema: type[M], entries: str, before: M | None = None) -> Call[M]:
    """Return a call that reads all pages of a list into one, ``before`` being those read so far."""

    def parse(response: httpx.Response) -> M:
        page = read_json(schema)(response)
        earlier = [] if before is None else getattr(before, entries)
        return page.model_copy(update={entries: [*earlier, *getattr(page, entries)]})

    def follow(page: M) -> Call[M] | None:
        cursor = getattr(page, "next", None)
        return all_pages(place, schema, entries, page) if cursor not in (None, getattr(before, "next", None)) else None

    return Call("GET", place, parse, params=query(after=getattr(before, "next", None)), follow=follow)


def given_fields(request: BaseModel | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a request that were set: the service refuses those of another type of job."""
    if isinstance(request, BaseModel):
        return request.model_dump(mode="json", exclude_unset=True)
    return dict(request or {})


def read_json(schema: type[M]) -> Callable[[httpx.Response], M]:
    """Return a parser of JSON bodies, which raises ``UnexpectedAnswer`` for another schema."""

    def parse(response: httpx.Response) -> M:
        try:
            return schema.model_validate_json(response.content)
        except ValidationError as error:
            raise unexpected(response, schema.__name__, error) from error

    return parse


def unexpected(response: httpx.Response, expected: str, error: ValidationError) -> UnexpectedAnswer:
    """Return an error that names the first wrong field."""
    [first, *_] = error.errors()
    where = ".".join(map(str, first["loc"])) or "its body"
    return UnexpectedAnswer(
        f"{response.url} answered no {expected} ({where}: {first['msg']}); check that the address is that of the "
        "service and that client and service have versions that fit"
    )


def read_bytes(media_type: str) -> Callable[[httpx.Response], bytes]:
    """Return a parser of bodies of a media type, which raises ``UnexpectedAnswer`` for another one."""
    return lambda response: _of_type(response, media_type).content


def read_text(media_type: str) -> Callable[[httpx.Response], str]:
    """Return a parser of texts of a media type, decoded by their charset, which raises ``UnexpectedAnswer``."""
    return lambda response: _of_type(response, media_type).text


def _of_type(response: httpx.Response, media_type: str) -> httpx.Response:
    """Raise ``UnexpectedAnswer`` for another media type: some servers answer every address with a page."""
    given = response.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != media_type:
        raise UnexpectedAnswer(
            f"{response.url} answered {given or 'a body without a type'}, expected {media_type}; check that the "
            "address is that of the service"
        )
    return response


def read_nothing(_response: httpx.Response) -> None:
    """Return None, for calls without a result."""
