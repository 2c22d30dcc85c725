"""Transports for requests, blocking or for ``asyncio``, and the base class for groups of API calls."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx
from tenacity import AsyncRetrying, Retrying

from snf_client.errors import ClientError, ServiceUnavailable, error_of
from snf_client.request import Call
from snf_client.retries import Retries, may_be_done

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 120.0
MAX_DEADLINE_MS = 600_000

P = ParamSpec("P")
T = TypeVar("T")


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

    def __init__(self, call: Call[T]) -> None:
        self._call = call

    @contextmanager
    def next(self) -> Iterator[Call[T]]:
        """Provide the request of the next attempt in a ``with`` block, and note if a deletion may have been done."""
        try:
            yield self._call
        except ClientError as error:
            if self._call.method == "DELETE" and may_be_done(error):
                self._call = replace(self._call, accept=(404,))
            raise


class _Transport:
    def __init__(self, connection: ServiceConnection) -> None:
        self.retries = connection.retries
        self._connection = connection
        self._contacted = False
        """Whether the service has ever answered."""
        self._closed = False
        """Whether the connections are closed, after which nothing is sent again."""

    def _tenacity_options(self, call: Call[Any]) -> dict[str, Any]:
        options = self.retries.tenacity_options(call, lambda: self._contacted)
        return {**options, "stop": options["stop"] | (lambda _state: self._closed)}

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

    def __init__(self, connection: ServiceConnection) -> None:
        super().__init__(connection)
        self._http = httpx.Client(base_url=connection.url, headers=connection.headers)

    def send(self, call: Call[T]) -> T:
        """Return the parsed response; raise ``ClientError`` if the last attempt failed."""
        while True:
            result: T = Retrying(**self._tenacity_options(call))(self._send_once, _Attempts(call))
            following = call.follow(result) if call.follow else None
            if following is None:
                return result
            call = following

    @contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """Send a request once and provide the response before its body; raise ``ClientError``."""
        with self._request(call) as options, self._http.stream(**options) as response:
            self._contacted = True
            if _is_error(response, call):
                response.read()
                raise error_of(response)
            yield response

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        self._closed = True
        self._http.close()

    def _send_once(self, attempts: _Attempts[T]) -> T:
        with attempts.next() as call, self.stream(call) as response:
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
            result: T = await AsyncRetrying(**self._tenacity_options(call))(self._send_once, _Attempts(call))
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
                self._contacted = True
                if _is_error(response, call):
                    await response.aread()
                    raise error_of(response)
                yield response

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        self._closed = True
        await self._http.aclose()

    async def _send_once(self, attempts: _Attempts[T]) -> T:
        with attempts.next() as call:
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
