"""A body ends where its client leaves, where it is too large, and where the service stops."""

import asyncio
import threading
from collections.abc import Iterable
from typing import cast

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from snf_app.http.bodies import CHUNK_BYTES, BodyTooLarge, UploadBody
from snf_app.http.errors import Problem


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


def chunk(data: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_comes_in_pieces() -> None:
    made = body(chunk(b"a" * CHUNK_BYTES), chunk(b"b"), chunk(b""), chunk(b"c", more=False))
    pieces = [asyncio.run(made.next_chunk()) for _ in range(3)]
    assert pieces == [b"a" * CHUNK_BYTES, b"bc", b""]


def test_a_client_that_leaves_and_a_service_that_stops_end_a_body() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(body(chunk(b"a"), {"type": "http.disconnect"}).next_chunk())
    with pytest.raises(Problem) as found:
        asyncio.run(body(chunk(b"a"), stopping=True).next_chunk())
    assert found.value.status == 503


def test_a_body_is_as_large_as_it_may_be() -> None:
    assert body(declared=2 * CHUNK_BYTES).declared == 2 * CHUNK_BYTES
    with pytest.raises(BodyTooLarge):
        body(declared=2 * CHUNK_BYTES + 1)
