"""Bodies of one caller beside those of others, and bodies that hardly arrive, through the middleware alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from typing import cast

import anyio
import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from snf_app.http.admission import BodyLimit, BodyTooLarge, MinUploadRate, PacedBody
from snf_app.http.errors import Problem
from snf_app.http.uploads import CHUNK_BYTES, UploadBody
from tests.app.conftest import MODEL
from tests.worker.support.helpers import until

pytestmark = pytest.mark.anyio

PATIENT = MinUploadRate(60.0, 0)


def chunk(size: int, more: bool = True) -> Message:
    return {"type": "http.request", "body": bytes(size), "more_body": more}


class Service:
    """Reads all bodies and answers them when it is told to."""

    def __init__(self, limit: int, in_flight: int, pace: MinUploadRate = PATIENT) -> None:
        streamed = frozenset({("POST", "/streamed")})
        self._limited = BodyLimit(self._read, limit, in_flight, pace, streamed)
        self._answer = asyncio.Event()

    async def _read(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self._answer.wait()

    async def ask(self, address: str, *messages: Message, path: str = "/") -> asyncio.Task[None]:
        """A request that is read as far as it goes."""
        left = iter(messages)

        async def receive() -> Message:
            for message in left:
                return message
            await asyncio.sleep(60)
            raise AssertionError("it was waited for too long")

        async def send(_message: Message) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": path, "client": (address, 1), "headers": []}
        task: asyncio.Task[None] = asyncio.ensure_future(self._limited(scope, receive, send))
        await asyncio.sleep(0.01)
        return task

    async def answer(self, *tasks: asyncio.Task[None]) -> None:
        """Answers what waits."""
        self._answer.set()
        await asyncio.gather(*tasks)
        self._answer.clear()


def error_of(task: asyncio.Task[None]) -> HTTPException:
    assert task.done()
    error = task.exception()
    assert isinstance(error, HTTPException)
    return error


async def test_one_caller_cannot_hold_what_others_need() -> None:
    service = Service(limit=400, in_flight=800)
    greedy = [await service.ask("10.0.0.1", chunk(200, more=False)) for _ in range(4)]
    assert [task.done() for task in greedy[:2]] == [False, False]
    assert [error_of(task).status_code for task in greedy[2:]] == [429, 429]
    polite = [await service.ask("10.0.0.2", chunk(20, more=False)) for _ in range(10)]
    assert not any(task.done() for task in polite)
    await service.answer(*greedy[:2], *polite)
    again = [await service.ask("10.0.0.1", chunk(200, more=False)) for _ in range(2)]
    assert not any(task.done() for task in again), "what was answered is free again"
    await service.answer(*again)


async def test_the_largest_body_fits_where_nothing_else_is_held() -> None:
    service = Service(limit=400, in_flight=400)
    pieces = [chunk(100) for _ in range(4)]
    alone = await service.ask("10.0.0.1", *pieces, chunk(0, more=False))
    assert not alone.done()
    await service.answer(alone)
    assert isinstance(error_of(await service.ask("10.0.0.1", *pieces, chunk(1))), BodyTooLarge)


@pytest.mark.parametrize("path", ["/", "/streamed"])
async def test_a_body_that_falls_silent_is_given_up_and_frees_its_share(path: str) -> None:
    service = Service(limit=100, in_flight=100, pace=MinUploadRate(0.05, 0))
    silent = await service.ask("10.0.0.1", chunk(100), path=path)
    await asyncio.wait([silent])
    error = error_of(silent)
    assert error.status_code == 408
    assert "0.05 s" in error.detail
    after = await service.ask("10.0.0.2", chunk(100, more=False), path=path)
    assert not after.done()
    await service.answer(after)


async def trickle(pause: float, size: int) -> AsyncIterator[Message]:
    while True:
        await asyncio.sleep(pause)
        yield chunk(size)


async def test_a_body_that_trickles_is_given_up_and_a_slow_one_is_not() -> None:
    async def read(pause: float, size: int, messages: int) -> None:
        body = PacedBody(anext_of(trickle(pause, size)), MinUploadRate(0.1, 1000))
        for _ in range(messages):
            await body()

    def anext_of(source: AsyncIterator[Message]) -> Receive:
        async def receive() -> Message:
            return await anext(source)

        return receive

    with pytest.raises(HTTPException, match="1000 bytes/s"):
        await read(0.02, 1, 50)
    await read(0.02, 100, 20)


async def test_only_the_time_in_which_it_is_waited_for_counts() -> None:
    messages = iter([chunk(1), chunk(1), chunk(1, more=False)])

    async def receive() -> Message:
        for message in messages:
            return message
        await asyncio.sleep(0.3)
        return {"type": "http.disconnect"}

    body = PacedBody(receive, MinUploadRate(0.1, 1000))
    for _ in range(3):
        await asyncio.sleep(0.15)
        assert (await body())["type"] == "http.request"
    assert (await body())["type"] == "http.disconnect", "past its end a body has no limit of time"


async def test_silence_counts_through_calls_that_are_cancelled() -> None:
    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("it was waited for too long")

    body = PacedBody(receive, MinUploadRate(0.2, 0))

    async def look_again() -> None:
        while True:
            try:
                async with asyncio.timeout(0.05):
                    await body()
            except TimeoutError:
                continue

    with pytest.raises(HTTPException, match="408"):
        await look_again()


class Client:
    """Sends its messages, then nothing."""

    def __init__(self, messages: Iterable[Message], declared: int) -> None:
        self._messages = iter(messages)
        self.headers = {"content-length": str(declared)}

    async def receive(self) -> Message:
        for message in self._messages:
            return message
        await asyncio.sleep(60)
        raise AssertionError("it was waited for too long")


def body(*messages: Message, stopping: bool = False, declared: int = 0) -> UploadBody:
    event = threading.Event()
    if stopping:
        event.set()
    return UploadBody(cast(Request, Client(messages, declared)), 2 * CHUNK_BYTES, event)


def piece(data: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_a_body_comes_in_pieces() -> None:
    made = body(piece(b"a" * CHUNK_BYTES), piece(b"b"), piece(b""), piece(b"c", more=False))
    pieces = [await made.next_chunk() for _ in range(3)]
    assert pieces == [b"a" * CHUNK_BYTES, b"bc", b""]


async def test_a_client_that_leaves_and_a_service_that_stops_end_a_body() -> None:
    with pytest.raises(ClientDisconnect):
        await body(piece(b"a"), {"type": "http.disconnect"}).next_chunk()
    with pytest.raises(Problem) as found:
        await body(piece(b"a"), stopping=True).next_chunk()
    assert found.value.status == 503


def test_a_body_is_as_large_as_it_may_be() -> None:
    assert body(declared=2 * CHUNK_BYTES).declared == 2 * CHUNK_BYTES
    with pytest.raises(BodyTooLarge):
        body(declared=2 * CHUNK_BYTES + 1)


@pytest.mark.parametrize("last", [b"", b"a"])
async def test_a_body_of_unknown_size_ends_where_it_may_be_no_larger(last: bytes) -> None:
    full = (piece(b"a" * CHUNK_BYTES), piece(b"a" * CHUNK_BYTES))
    chunks = body(*full, piece(last, more=False)).chunks()
    with pytest.raises(BodyTooLarge) if last else nullcontext():
        assert await anyio.to_thread.run_sync(list, chunks) == [b"a" * CHUNK_BYTES] * 2


VARYING = {"date", "x-request-id"}


def headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in VARYING}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/console/js/main.js", "/docs/files/swagger-ui.css",
        "/guide/scores.md", "/guide/images/replicas.svg", "/guide/nowhere.md", "/healthz", "/readyz",
        "/v1/models", f"/v1/models/{MODEL}", f"/v1/models/{MODEL}/card", f"/v1/models/{MODEL}/artifact",
        f"/v1/models/{MODEL}/samples?n=1&seed=1&format=png", "/v1/presets", "/v1/datasets/mnist-mini",
        "/v1/models/nobody", "/v1/jobs", "/nowhere", "/console/nowhere.js", "/v1/models?limit=1",
    ],
)  # fmt: skip
def test_head_has_the_status_and_headers_of_get_without_the_body(client: TestClient, path: str) -> None:
    until(lambda: client.get("/readyz").status_code == 200)  # a model's details grow once it is loaded
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert headers(head) == headers(got)
    assert got.content


def test_what_is_unchanged_is_not_sent_again(client: TestClient) -> None:
    tag = client.head("/console/js/main.js").headers["etag"]
    assert client.head("/console/js/main.js", headers={"if-none-match": tag}).status_code == 304
    part = client.head("/console/js/main.js", headers={"range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"], part.content) == (206, "10", b"")


def test_head_is_refused_where_get_is(client: TestClient) -> None:
    refused = client.head(f"/v1/models/{MODEL}/score")
    assert (refused.status_code, refused.headers["allow"], refused.content) == (405, "POST", b"")
