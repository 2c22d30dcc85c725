"""One call of the service as data: what is sent, how its answer is read, and whether it may be sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from snf_client.errors import UnexpectedAnswer

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Repeat(Enum):
    """When a call may be sent once more."""

    HARMLESS = "harmless"
    """Always: doing it twice is doing it once."""
    REFUSED = "refused"
    """Where the service said that it has not done it, or never got it."""
    UNSENT = "unsent"
    """Where no connection was made: what is sent can be read once only."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and how to read its answer.

    `parse` gets a successful answer with its body; statuses in `accept` count as successful. `read_s` is the longest
    silence while the answer is awaited, where that differs from the client's.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of httpx: `json`, `content`, `data`, `files`."""
    repeat: Repeat = Repeat.HARMLESS
    accept: tuple[int, ...] = ()
    read_s: float | None = -1.0
    """None: no limit; negative: the client's."""


def path(*parts: str | int) -> str:
    """A path under `/v1`, whatever characters its parts have."""
    return "/v1/" + "/".join(quote(str(part), safe=":@") for part in parts)


def given(**params: Any) -> dict[str, Any]:
    """A query without the parameters that are None, with booleans as the service writes them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in params.items()
        if value is not None
    }


def model(kind: type[M]) -> Callable[[httpx.Response], M]:
    """Reads an answer as one of the service's own answers."""

    def parse(response: httpx.Response) -> M:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise UnexpectedAnswer(f"{response.url} answered no {kind.__name__}: {error}") from error

    return parse


def content(response: httpx.Response) -> bytes:
    """Reads an answer as it is."""
    return response.content


def text(response: httpx.Response) -> str:
    """Reads an answer as text."""
    return response.text


def nothing(_response: httpx.Response) -> None:
    """Reads an answer that has no body."""
