"""Requests to the service, their retries, and the transports that send them, blocking or for ``asyncio``."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, stop_before_delay

from snf_client.errors import ClientError, ProblemError, ServiceUnavailable, UnexpectedAnswer, error_of

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class RetryWhen(Enum):
    """Condition for sending a failed request again, for example only if no connection was made."""

    ALWAYS = "always"  # the call is idempotent: sending it twice has the effect of sending it once
    REFUSED = "refused"  # the service has refused the call or has never received it
    UNSENT = "unsent"  # no connection was made: the body is too large to send twice


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


REFUSALS = frozenset({429, 503})
"""Statuses of a service that has not done the call: it is overloaded, is stopping, or has lost its job broker."""
BAD_GATEWAY = 502  # status of a proxy whose service is restarting; the service may have done the call

OnRetry = Callable[[ClientError, float], None]


@dataclass(frozen=True)
class Retries:
    """Settings for repeating failed requests: how often, for how long, and after which pauses.

    By default there are at most 10 attempts, within 60 seconds.

    A pause doubles after every failure, from ``first_pause`` up to ``longest_pause``. A random part of it is left out,
    so that many clients do not come back at the same moment. A ``Retry-After`` header of the service takes precedence.

    Args:
        attempts: Attempts in all.
        seconds: Time within which all attempts start.
        attempts_before_contact: Attempts in all while the service has never answered this client: its address may be
            wrong.
        first_pause: Pause after the first failure, seconds.
        longest_pause: Longest pause, seconds.
        on_retry: Function that is called before each pause with the error and the pause in seconds.
    """

    attempts: int = 10
    seconds: float = 60.0
    attempts_before_contact: int = 4
    first_pause: float = 0.25
    longest_pause: float = 10.0
    on_retry: OnRetry | None = None

    def pause(self, error: BaseException | None, failures: int) -> float:
        """Return the seconds before the next attempt, by ``Retry-After`` or doubled with every failure."""
        retry_after = error.retry_after if isinstance(error, ProblemError) else None
        if retry_after is not None:
            return retry_after * random.uniform(1.0, 1.2)  # noqa: S311 - nothing secret
        whole: float = min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret


def may_retry(retry_when: RetryWhen, error: BaseException) -> bool:
    """Return whether a request may be sent again after a lost connection or HTTP 429, 502 or 503."""
    if may_be_done(error):
        return retry_when is RetryWhen.ALWAYS
    match error:
        case ServiceUnavailable():
            return True
        case ProblemError(status=status):
            return retry_when is not RetryWhen.UNSENT and status in REFUSALS
    return False


def may_be_done(error: BaseException) -> bool:
    """Return whether the service may have done a request: its response was lost, or a proxy answered 502."""
    match error:
        case ServiceUnavailable(sent=sent):
            return sent
        case ProblemError(status=status):
            return status == BAD_GATEWAY
    return False


DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 120.0
MAX_DEADLINE_MS = 600_000

P = ParamSpec("P")


@dataclass(frozen=True)
class ServiceConnection:
    """Settings of the connection, with the timeout in seconds."""

    url: httpx.URL
    headers: dict[str, str]
    timeout_s: float
    retries: Retries

    @classmethod
    def to(cls, url: str | None, key: str | None, timeout: float, retries: Retries | None) -> Self:
        """Fill in what is None from ``SNF_URL``, ``SNF_API_KEY`` and defaults; ``ValueError`` if unusable."""
        text = url or os.environ.get("SNF_URL") or DEFAULT_URL
        wrong = ValueError(f"expected an address such as {DEFAULT_URL}, got {text!r}")
        try:
            address = httpx.URL(text.rstrip("/"))
        except httpx.InvalidURL as error:
            raise wrong from error
        if address.scheme not in {"http", "https"} or not address.host:
            raise wrong
        # The line break at the end of a file or secret is no part of the key.
        key = (key or os.environ.get("SNF_API_KEY") or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ValueError("expected an API key of printable ASCII characters, got one with others")
        deadline = {"X-Timeout-Ms": str(min(MAX_DEADLINE_MS, max(1, int(1000 * timeout))))}
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        return cls(address, deadline | authorization, timeout, retries or Retries())


class _Attempts(Generic[T]):
    """Attempts of one call: if the response to a deletion was lost, a later "not found" counts as success."""

    def __init__(self, call: Call[T], transport: _Transport) -> None:
        self.call = call
        self._transport = transport
        retries = transport.retries
        is_late = stop_before_delay(retries.seconds)
        self.policy: dict[str, Any] = {
            "retry": retry_if_exception(lambda error: may_retry(call.retry_when, error)),
            "stop": lambda state: self._is_last(state) or is_late(state),
            "wait": lambda state: retries.pause(state.outcome.exception(), state.attempt_number),
            "before_sleep": self._before_sleep,
            "reraise": True,
        }
        """Keyword arguments of the ``Retrying`` classes of tenacity."""

    def _is_last(self, state: RetryCallState) -> bool:
        retries, transport = self._transport.retries, self._transport
        attempts = retries.attempts if transport.contacted else min(retries.attempts, retries.attempts_before_contact)
        return transport.closed or state.attempt_number >= attempts

    def _before_sleep(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, ClientError):
            return
        if self.call.method == "DELETE" and may_be_done(error):
            self.call = replace(self.call, accept=(404,))
        if self._transport.retries.on_retry is not None:
            self._transport.retries.on_retry(error, state.upcoming_sleep)


class _Transport:
    def __init__(self, connection: ServiceConnection) -> None:
        self.retries = connection.retries
        self._connection = connection
        self.contacted = False
        """Whether the service has ever answered."""
        self.closed = False
        """Whether the connections are closed, after which nothing is sent again."""

    @contextmanager
    def _request(self, call: Call[Any]) -> Iterator[dict[str, Any]]:
        """Provide the arguments of an httpx request in a ``with`` block, and translate connection errors."""
        timeout_s = self._connection.timeout_s
        read = call.read_timeout_s if call.read_timeout_s is None or call.read_timeout_s >= 0 else timeout_s
        options = {"method": call.method, "url": call.path, "params": call.params, "headers": call.headers}
        timeout = httpx.Timeout(timeout_s, read=read)
        with call.open_body() if call.open_body is not None else nullcontext(call.body) as body:
            try:
                yield {**options, "timeout": timeout, **body}
            except httpx.LocalProtocolError as error:
                # Its text may have the value of a header, which belongs in no message.
                raise ClientError(f"{call.method} {call.path} cannot be sent: HTTP does not allow it") from error
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                raise self._unavailable(error, sent=False) from error
            except (httpx.TransportError, httpx.DecodingError) as error:
                raise self._unavailable(error, sent=True) from error

    def _unavailable(self, error: httpx.HTTPError, *, sent: bool) -> ServiceUnavailable:
        return ServiceUnavailable(f"{self._connection.url} does not answer: {error or type(error).__name__}", sent=sent)


class SyncTransport(_Transport):
    """Transport that blocks, and repeats failed requests if ``may_retry`` says so."""

    def __init__(self, connection: ServiceConnection, transport: httpx.BaseTransport | None = None) -> None:
        super().__init__(connection)
        # Proxies of the environment would come before a given transport.
        self._http = httpx.Client(
            base_url=connection.url, headers=connection.headers, transport=transport, trust_env=transport is None
        )

    def send(self, call: Call[T]) -> T:
        """Return the parsed response; raise ``ClientError`` if the last attempt failed."""
        while True:
            attempts = _Attempts(call, self)
            result: T = Retrying(**attempts.policy)(self._send_once, attempts)
            following = call.follow(result) if call.follow else None
            if following is None:
                return result
            call = following

    @contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """Send a request once and provide the response before its body; raise ``ClientError``."""
        with self._request(call) as options, self._http.stream(**options) as response:
            self.contacted = True
            if _is_error(response, call):
                response.read()
                raise error_of(response)
            yield response

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        self.closed = True
        self._http.close()

    def _send_once(self, attempts: _Attempts[T]) -> T:
        call = attempts.call
        with self.stream(call) as response:
            if call.save_to is None:
                response.read()
            else:
                with _new_file(call.save_to) as write:
                    for piece in response.iter_bytes():
                        write(piece)
            return call.parse(response)


class AsyncTransport(_Transport):
    """Transport for ``asyncio``, which repeats failed requests if ``may_retry`` says so."""

    def __init__(self, connection: ServiceConnection) -> None:
        super().__init__(connection)
        self._http = httpx.AsyncClient(base_url=connection.url, headers=connection.headers)

    async def send(self, call: Call[T]) -> T:
        """Return the parsed response; raise ``ClientError`` if the last attempt failed."""
        while True:
            attempts = _Attempts(call, self)
            result: T = await AsyncRetrying(**attempts.policy)(self._send_once, attempts)
            following = call.follow(result) if call.follow else None
            if following is None:
                return result
            call = following

    @asynccontextmanager
    async def stream(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """Send a request once and provide the response before its body; raise ``ClientError``."""
        with self._request(call) as options:
            if isinstance(options.get("content"), Iterator):
                options["content"] = _asynchronous(options["content"])
            async with self._http.stream(**options) as response:
                self.contacted = True
                if _is_error(response, call):
                    await response.aread()
                    raise error_of(response)
                yield response

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        self.closed = True
        await self._http.aclose()

    async def _send_once(self, attempts: _Attempts[T]) -> T:
        call = attempts.call
        async with self.stream(call) as response:
            if call.save_to is None:
                await response.aread()
            else:
                with _new_file(call.save_to) as write:
                    async for piece in response.aiter_bytes():
                        write(piece)
            return call.parse(response)


def _is_error(response: httpx.Response, call: Call[Any]) -> bool:
    return not response.is_success and response.status_code not in call.accept


async def _asynchronous(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@contextmanager
def _new_file(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Provide a function that writes to a temporary file, which replaces ``target`` if the block succeeds."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


S = TypeVar("S", bound=_Transport)


class Resource(Generic[S]):
    def __init__(self, transport: S) -> None:
        self._transport = transport


class operation(Generic[P, T]):  # noqa: N801 - a decorator, as ``property`` is
    """Decorator of a method that returns a ``Call``: it sends it and returns the result, or an awaitable of it."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, resource: None, owner: type) -> operation[P, T]: ...
    @overload
    def __get__(self, resource: Resource[SyncTransport], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, resource: Resource[AsyncTransport], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, resource: Resource[Any] | None, owner: type) -> Any:
        if resource is None:
            return self

        def send(*arguments: P.args, **keywords: P.kwargs) -> Any:
            return resource._transport.send(self._describe(resource, *arguments, **keywords))

        return update_wrapper(send, self._describe)
