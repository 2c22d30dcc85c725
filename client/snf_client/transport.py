"""How calls are sent: by threads or by an event loop. All else is the same for both clients."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx
from tenacity import AsyncRetrying, Retrying

from snf_client.errors import ClientError, ServiceUnavailable, problem_of
from snf_client.request import Call
from snf_client.retries import Retries, may_be_done

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def _lost_connections(base_url: httpx.URL) -> Iterator[None]:
    """Makes httpx's errors of the transport one of the client."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ServiceUnavailable(_unanswered(base_url, error), sent=False) from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise ServiceUnavailable(_unanswered(base_url, error), sent=True) from error


def _unanswered(base_url: httpx.URL, error: httpx.HTTPError) -> str:
    return f"{base_url} does not answer: {error or type(error).__name__}"


class _Attempts(Generic[T]):
    """A call as it is sent next: a deletion whose answer was lost may find nothing, because it was done."""

    def __init__(self, call: Call[T]) -> None:
        self._call = call

    @contextmanager
    def one(self) -> Iterator[Call[T]]:
        """The call for one attempt."""
        try:
            yield self._call
        except ClientError as error:
            if self._call.method == "DELETE" and may_be_done(error):
                self._call = replace(self._call, accept=(404,))
            raise


class _Sender:
    """What both ways of sending know."""

    def __init__(self, base_url: httpx.URL, timeout: float, retries: Retries) -> None:
        self._base_url = base_url
        self._timeout = timeout
        self.retries = retries
        self.heard = False
        """Whether the service has ever answered."""

    def _retrying(self, call: Call[Any]) -> dict[str, Any]:
        """Keywords of tenacity for a call."""
        return self.retries.arguments(call, lambda: self.heard)

    def _options(self, call: Call[Any]) -> dict[str, Any]:
        """Keywords of httpx for a call."""
        read = call.read_s if call.read_s is None or call.read_s >= 0 else self._timeout
        timeout = httpx.Timeout(self._timeout, read=read)
        return {"params": call.params, "headers": call.headers, "timeout": timeout, **call.body}


class SyncSender(_Sender):
    """Sends calls and waits for their answers."""

    def __init__(self, http: httpx.Client, timeout: float, retries: Retries) -> None:
        super().__init__(http.base_url, timeout, retries)
        self._http = http

    def send(self, call: Call[T]) -> T:
        """The answer of a call, which is repeated where that is harmless; raises `ClientError`."""
        answer: T = Retrying(**self._retrying(call))(self._once, _Attempts(call))
        return answer

    def download(self, call: Call[Any], target: Path) -> Path:
        """Writes the body of an answer into a file, which is there when it is complete."""
        Retrying(**self._retrying(call))(self._download, call, target)
        return target

    @contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """An answer whose body is still to come; the call is not repeated."""
        with (
            _lost_connections(self._base_url),
            self._http.stream(call.method, call.path, **self._options(call)) as response,
        ):
            self.heard = True
            if _refused(response, call):
                response.read()
                raise problem_of(response)
            yield response

    def pause(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

    def _once(self, attempts: _Attempts[T]) -> T:
        with attempts.one() as call, self.stream(call) as response:
            response.read()
            return call.parse(response)

    def _download(self, call: Call[Any], target: Path) -> None:
        with self.stream(call) as response, _new_file(target) as write:
            for piece in response.iter_bytes():
                write(piece)


class AsyncSender(_Sender):
    """Sends calls on an event loop."""

    def __init__(self, http: httpx.AsyncClient, timeout: float, retries: Retries) -> None:
        super().__init__(http.base_url, timeout, retries)
        self._http = http

    async def send(self, call: Call[T]) -> T:
        """The answer of a call, which is repeated where that is harmless; raises `ClientError`."""
        return await AsyncRetrying(**self._retrying(call))(self._once, _Attempts(call))

    async def download(self, call: Call[Any], target: Path) -> Path:
        """Writes the body of an answer into a file, which is there when it is complete."""
        await AsyncRetrying(**self._retrying(call))(self._download, call, target)
        return target

    @asynccontextmanager
    async def stream(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to come; the call is not repeated."""
        with _lost_connections(self._base_url):
            async with self._http.stream(call.method, call.path, **self._options(call)) as response:
                self.heard = True
                if _refused(response, call):
                    await response.aread()
                    raise problem_of(response)
                yield response

    async def pause(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)

    async def _once(self, attempts: _Attempts[T]) -> T:
        with attempts.one() as call:
            async with self.stream(call) as response:
                await response.aread()
                return call.parse(response)

    async def _download(self, call: Call[Any], target: Path) -> None:
        async with self.stream(call) as response:
            with _new_file(target) as write:
                async for piece in response.aiter_bytes():
                    write(piece)


def _refused(response: httpx.Response, call: Call[Any]) -> bool:
    return response.status_code >= 400 and response.status_code not in call.accept


@contextmanager
def _new_file(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Gives what writes beside `target`, which is replaced at the end; nothing is left where writing fails."""
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            yield file.write
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


S = TypeVar("S", bound=_Sender)


class Group(Generic[S]):
    """Calls that belong together, sent by `S`."""

    def __init__(self, sender: S) -> None:
        self._sender = sender


class operation(Generic[P, T]):  # noqa: N801 - a decorator, as `property` is
    """Makes a method of a group that describes a call one that sends it.

    In a group of a `SyncSender` it gives what the answer is read as, in a group of an `AsyncSender` an awaitable of it.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, group: None, owner: type) -> operation[P, T]: ...
    @overload
    def __get__(self, group: Group[SyncSender], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, group: Group[AsyncSender], owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, group: Group[Any] | None, owner: type) -> Any:
        if group is None:
            return self

        def send(*arguments: P.args, **keywords: P.kwargs) -> Any:
            return group._sender.send(self._describe(group, *arguments, **keywords))

        return update_wrapper(send, self._describe)
