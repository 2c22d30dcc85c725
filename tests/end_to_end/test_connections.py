"""Connections of clients that mean ill or hang, over real sockets: others are served, and nothing stays behind."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.support.processes import pid_of
from tests.end_to_end.support.service import score_one, serving
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

HEADER_S, BODY_S, SEND_S = 0.5, 0.5, 1.0
MOST = 64
# A shipped model: larger than what the system keeps of an answer that is not read.
EXPORT = b"GET /v1/models/cifar10-snf-glow/artifact HTTP/1.1\r\nHost: localhost\r\n\r\n"
DATASETS = "POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture(scope="module")
def service(module_home: Path) -> Iterator[httpx.Client]:
    limits = {"header_timeout_s": HEADER_S, "body_timeout_s": BODY_S, "send_timeout_s": SEND_S, "max_connections": MOST}
    with serving(module_home, shipped="cifar10-snf-glow", measured=True, **limits) as client:
        client.headers["connection"] = "close"  # the service may be about to end a connection that waits
        score_one(client, "digits", DIGITS[0].read_bytes())
        yield client


def connect(client: httpx.Client, address: str = "127.0.0.1", receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(20)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.bind((address, 0))
    assert client.base_url.port is not None
    connection.connect(("127.0.0.1", client.base_url.port))
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the service closes."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def problem(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["type"]


def descriptors(home: Path) -> int:
    """Open files of the service of a home."""
    return len(list(Path(f"/proc/{pid_of(home)}/fd").iterdir()))


def settled(client: httpx.Client, home: Path) -> int:
    """Open files of the service while this client holds no connection."""
    client.get("/healthz", headers={"connection": "close"})
    return descriptors(home)


of_processes = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
TOO_LARGE = {
    "one endless header": HEAD + b"X-Long: " + b"a" * 70_000,
    "endless headers": HEAD + b"X-Some: 0123456789012345678901234567890123456789012345678901234567890\r\n" * 1000,
    "many tiny headers": HEAD + b"a:b\r\n" * 300,
    "an endless first line": b"GET /" + b"a" * 70_000,
    "endless line feeds": b"\r\n" * 40_000,
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE)
def test_headers_are_bounded(service: httpx.Client, sent: bytes) -> None:
    with connect(service) as connection:
        connection.sendall(sent)
        assert problem(rest(connection)) == (431, "headers-too-large")


def test_headers_up_to_the_bound_are_read(service: httpx.Client) -> None:
    with connect(service) as connection:
        connection.sendall(HEAD + b"X-Long: " + b"a" * 65_000 + b"\r\nConnection: close\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_endless_trailers_and_pipelines_end_the_connection(service: httpx.Client) -> None:
    chunked = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    for sent in (chunked + b"X-Trailer: " + b"a" * 200_000, (HEAD + b"\r\n") * 5000):
        with connect(service) as connection:
            began = time.monotonic()
            try:
                connection.sendall(sent)
                rest(connection)
            except (ConnectionResetError, BrokenPipeError):
                pass
            assert time.monotonic() - began < 5


def test_a_cut_pipeline_leaves_no_traceback(service: httpx.Client, module_home: Path) -> None:
    """The answer that is being sent was not told of the end, as it is not that of the last request."""
    with connect(service, receive_buffer=4096) as connection:
        connection.sendall(EXPORT * 3)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.2)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.2)
    service.get("/healthz").raise_for_status()
    assert "Exception in ASGI" not in (module_home / "logs" / "service.jsonl").read_text()


def test_headers_have_a_limit_of_time(service: httpx.Client) -> None:
    for begun, expected in ((b"", b""), (HEAD, b"HTTP/1.1 408 ")):
        with connect(service) as connection:
            connection.sendall(begun)
            began = time.monotonic()
            answer = rest(connection)
            assert answer.startswith(expected)
            assert len(answer) >= len(expected)
            assert HEADER_S / 2 < time.monotonic() - began < 10 * HEADER_S
    with connect(service) as connection:  # dripping, on a connection that was used before
        connection.sendall(HEAD + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10 * HEADER_S:
                connection.sendall(b"a")
                time.sleep(0.05)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert time.monotonic() - began < 10 * HEADER_S


def test_a_request_without_its_body_does_not_stay(service: httpx.Client) -> None:
    with connect(service) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx")
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"x")
        began = time.monotonic()
        rest(connection)
        assert time.monotonic() - began < 10 * HEADER_S


def test_half_open_connections_of_one_address_leave_room_for_others(service: httpx.Client) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(service)) for _ in range(2 * MOST)]
        polite = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=service.base_url, transport=polite) as other:
            score_one(other, "digits", DIGITS[0].read_bytes())
        answers = [rest(connection) for connection in held]
    refused = [answer for answer in answers if answer]
    assert len(refused) > MOST
    assert {problem(answer) for answer in refused} == {(429, "too-many-connections")}
    assert all(b"retry-after: " in answer for answer in refused)
    score_one(service, "digits", DIGITS[0].read_bytes())


FORM = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "sent"), [("image/png", bytes(5000)), ("multipart/form-data; boundary=x", FORM + bytes(5000))]
)
def test_a_silent_body_is_given_up_whatever_its_deadline(service: httpx.Client, kind: str, sent: bytes) -> None:
    head = f"POST /v1/models/digits/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    with connect(service) as connection:
        began = time.monotonic()
        connection.sendall(f"{head}X-Timeout-Ms: 600000\r\nContent-Length: 100000\r\n\r\n".encode() + sent)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 10 * BODY_S


def test_uploads_that_trickle_leave_places_for_others(service: httpx.Client) -> None:
    with ExitStack() as stack:
        dripping = [stack.enter_context(connect(service)) for _ in range(8)]
        for number, connection in enumerate(dripping):
            # From others than proxies that the settings name, this header means nothing.
            source = f"X-Forwarded-For: 10.0.0.{number}\r\n"
            connection.sendall(f"{DATASETS}{source}Content-Length: 100000\r\n\r\n--x".encode())
        polite = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=service.base_url, transport=polite) as other:
            answer = other.post("/v1/datasets", data={"name": "few"}, files={"file": ("a.txt", b"no image")})
            assert answer.status_code == 422, answer.text
        statuses = sorted(int(connection.recv(4096).split()[1]) for connection in dripping)
        assert statuses == [408] * 4 + [429] * 4, "one address gets half of the places, and not for long"


@of_processes
def test_aborted_downloads_leave_nothing_open(service: httpx.Client, module_home: Path) -> None:
    def abort() -> None:
        with connect(service, receive_buffer=4096) as connection:
            connection.sendall(EXPORT)
            assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")

    abort()
    before = settled(service, module_home)
    for _ in range(150):
        abort()
    until(lambda: settled(service, module_home) <= before)


@of_processes
def test_aborted_forms_leave_nothing_open(service: httpx.Client, module_home: Path) -> None:
    head = (
        "POST /v1/models/digits/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    )
    sent = f"{head}Content-Length: 4000000\r\n\r\n".encode() + FORM + bytes(2_000_000)

    def abort() -> None:
        with connect(service) as connection:
            connection.sendall(sent)

    abort()
    before = settled(service, module_home)
    for _ in range(20):
        abort()
    until(lambda: settled(service, module_home) <= before)


@of_processes
def test_a_client_that_does_not_read_is_cut_off(service: httpx.Client, module_home: Path) -> None:
    before = descriptors(module_home)
    with connect(service, receive_buffer=4096) as connection:
        # More than the buffers of the system take, with the answers to what was asked before.
        connection.sendall(EXPORT * 16)
        assert connection.recv(1).startswith(b"H")
        assert descriptors(module_home) > before
        until(lambda: descriptors(module_home) <= before)
        assert len(rest(connection)) > 0
