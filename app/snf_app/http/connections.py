"""Connections of uvicorn, with limits on their number and on slow clients."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from snf_app.access.permissions import network_of
from snf_app.http.admission import FairShares
from snf_app.http.errors import Problem, problem_response
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

RESERVED_FILES, FILES_EACH = 256, 4
"""File descriptors that are kept for everything but connections, and for a connection and the files sent through it."""
MIN_CONNECTIONS = 16
RETRY_S = 5  # seconds after which a refused client may try again
HEADER_BYTES = 64 * 2**10  # most bytes of the first line and the headers of a request
HEADERS = 256  # most headers of a request: each takes more memory than its bytes
PIPELINED = 16  # most requests of a connection that wait for the answer to an earlier request
LINGER_S = 2.0  # time for a refused client to read the answer

log = logging.getLogger(__name__)


class ConnectionWatch:
    """Open connections: limits on their number, in total and by address, and checks of their timeouts."""

    def __init__(self, settings: Settings) -> None:
        self.header_s, self.send_s = settings.header_timeout_s, settings.send_timeout_s
        self.max_connections = _allowed_connections(settings.max_connections)
        self._shares = FairShares(self.max_connections)
        self._open: dict[Connection, str] = {}
        self._period = min(1.0, self.header_s / 4, self.send_s / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        self._proxies = [ipaddress.ip_network(proxy) for proxy in settings.trusted_proxies]

    def admit(self, connection: Connection, host: str) -> Problem | None:
        """Register a connection of an IP address, or return a 429 or 503 ``Problem`` if too many are open."""
        # Behind a proxy are many clients: each of its connections counts by itself.
        address = f"proxy {id(connection)}" if self._is_proxy(host) else network_of(host)
        if self._shares.take(address):
            self._open[connection] = address
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._period, self._check)
            return None
        self._refused += 1
        if self._shares.free:
            detail = (
                f"one address may hold at most as many of {self.max_connections} connections as stay free for others; "
                "close some"
            )
            return Problem("too-many-connections", detail, retry_s=RETRY_S)
        detail = f"all {self.max_connections} connections are open; try again in about {RETRY_S} s"
        return Problem("too-many-connections", detail, kind=(503, "Too many connections"), retry_s=RETRY_S)

    def release(self, connection: Connection) -> None:
        """Remove a closed connection; an unknown one is ignored."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._shares.give_back(address)

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:  # a client that has left has no address
            return False
        return any(address in proxy for proxy in self._proxies)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._period, self._check) if self._open else None
        if self._refused:
            log.warning(
                "%d connections were refused; %d of %d are open", self._refused, len(self._open), self.max_connections
            )
            self._refused = 0
        now = loop.time()
        for connection in list(self._open):
            connection.check(now)


def _allowed_connections(wanted: int) -> int:
    """Return how many connections the limit on open files allows, after raising it as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * FILES_EACH + RESERVED_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    except (OSError, ValueError) as error:
        log.warning("the limit on open files cannot be raised from %d to %d: %s", soft, raised, error)
    allowed = min(wanted, max(MIN_CONNECTIONS, (soft - RESERVED_FILES) // FILES_EACH))
    if allowed < wanted:
        log.warning("the limit on open files allows %d connections of %d", allowed, wanted)
    return allowed


class Connection(HttpToolsProtocol):
    """Connection of uvicorn with limits on header size, header time, and the time an answer stays unread."""

    def __init__(
        self,
        watch: ConnectionWatch,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._watch = watch
        self._running: RequestResponseCycle | None = None
        self._unframed = 0
        self._advanced = False
        self._in_body = False
        self._too_many = False
        self._head_since: float | None = None
        self._refused_since: float | None = None
        self._unsent: int | None = None
        self._taken_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a new connection, or answer 429 or 503 and close it."""
        client = get_remote_addr(transport)
        problem = self._watch.admit(self, client[0] if client else "")
        if problem is not None:
            self.transport = transport
            self._refused_since = self.loop.time()
            transport.write(encode(problem))
            transport.close()
            return
        super().connection_made(transport)
        self._head_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.release(self)
        # Of pipelined requests, uvicorn notes the end at the last one only, and the others would go on writing.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; answer 431 if the headers of a request reach 64 KiB."""
        if self._refused_since is not None:
            return  # read and dropped: unread bytes would reset the connection before the answer
        rest = memoryview(data)
        while rest:
            room = HEADER_BYTES - self._unframed
            piece, rest = rest[:room], rest[room:]
            self._advanced = False
            super().data_received(data if len(piece) == len(data) else bytes(piece))
            if self.transport.is_closing() or self._refused_since is not None:
                return
            self._unframed = 0 if self._advanced else self._unframed + len(piece)
            if self._unframed >= HEADER_BYTES:
                self._refuse(_headers_too_large())
                return
        if self._unframed and not self._in_body and self._head_since is None:
            self._head_since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; raise ``ValueError`` at the 257th. Headers after the body are ignored."""
        if self._in_body:
            return
        if len(self.headers) >= HEADERS:
            self._too_many = True
            raise ValueError(f"expected at most {HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Process or queue a request; raise ``ValueError`` if more than 16 wait, this one included."""
        self._advanced = self._in_body = True
        self._head_since = None
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            raise ValueError(f"expected at most {PIPELINED} pipelined requests")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the next request; after an early answer, limit the time for the rest of the body."""
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._head_since = self.loop.time()

    def resume_writing(self) -> None:
        self._unsent = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to a request that is not valid HTTP, or 431 if it has too many headers."""
        malformed = Problem("malformed-request", msg)
        self._refuse(_headers_too_large() if self._too_many else malformed)

    def check(self, now: float) -> None:
        """Close the connection if headers or the rest of a body are late, or if an answer is not read."""
        if self._refused_since is not None:
            if now - self._refused_since > LINGER_S:
                self.transport.abort()
            return
        if self._is_stuck(now):
            log.info("a client took nothing of its answer for %g s and is cut off", self._watch.send_s)
            self.transport.abort()
        elif self._head_since is not None and now - self._head_since > self._watch.header_s:
            if self._is_answering():
                self._head_since = now
            elif self._unframed and not self._in_body:
                seconds = self._watch.header_s
                detail = f"expected the headers of a request within {seconds:g} s; send them without pauses"
                self._refuse(Problem("request-timeout", detail))
            else:
                self.transport.close()

    def _is_stuck(self, now: float) -> bool:
        """Return whether the client has read nothing of its answer for longer than the send timeout."""
        if not (self.flow.write_paused or self.transport.is_closing()):
            self._unsent = None
            return False
        unsent = self.transport.get_write_buffer_size()
        if self._unsent is None or unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        return now - self._taken_at > self._watch.send_s

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless another answer has begun, and end the connection."""
        self._refused_since = self.loop.time()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self._is_answering():
            if self.pipeline or self.cycle.response_started:
                self.transport.close()
                return
            # As if the client had left: what answers the request stops and sends nothing.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(encode(problem))
        self.transport.write_eof()


def encode(problem: Problem) -> bytes:
    """Return the bytes of an HTTP response that reports an error as JSON and closes the connection."""
    answer = problem_response(problem, "")
    lines = [STATUS_LINE[answer.status_code]]
    lines += [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
    return b"".join([*lines, b"connection: close\r\n\r\n", cast(bytes, answer.body)])


def _headers_too_large() -> Problem:
    return Problem(
        "headers-too-large",
        f"expected a first line and headers of less than {HEADER_BYTES} bytes and at most {HEADERS} headers, got more",
    )
