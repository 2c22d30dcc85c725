"""A lean HTTP/1.1 client for load: connections that stay open, no parsing beyond the head."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """Status, lower-case headers and body of an answer; ``seconds`` from the call on."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def request(method: str, path: str, body: bytes = b"", content_type: str | None = None) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One connection, for one request at a time; answers need a ``Content-Length``, as all of the service have."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, dict[str, str], bytes]] | None = None

    @property
    def closed(self) -> bool:
        """Whether no more requests can be sent."""
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        last = end + 4 + int(headers["content-length"])
        if len(self._buffer) < last:
            return
        body = bytes(self._buffer[end + 4 : last])
        del self._buffer[:last]
        if not self._answer.done():
            self._answer.set_result((int(first.split()[1]), headers, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the service closed the connection"))

    async def ask(self, content: bytes) -> Answer:
        """Send a request and return its answer. Raises ``OSError`` where the connection is lost."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._answer = loop.create_future()
        self._transport.write(content)
        status, headers, body = await self._answer
        return Answer(status, headers, body, loop.time() - began)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


class Connections:
    """As many connections from one address as requests are under way."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._port = port
        self._source = source
        self._idle: list[Connection] = []

    async def ask(self, content: bytes) -> Answer:
        """Send a request on an idle connection, or on a new one, and return its answer."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                break
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                Connection, "127.0.0.1", self._port, local_addr=(self._source, 0)
            )
        try:
            answer = await connection.ask(content)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()


class RoundRobin:
    """Connections to several services; requests go to them in turn."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._services = [Connections(port) for port in ports]
        self._turns = itertools.cycle(self._services)

    async def ask(self, content: bytes) -> Answer:
        """Send a request to the next service and return its answer."""
        return await next(self._turns).ask(content)

    def close(self) -> None:
        """Close the idle connections."""
        for service in self._services:
            service.close()
