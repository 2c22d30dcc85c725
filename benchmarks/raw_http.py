"""The load generator: HTTP/1.1 connections that stay open, and clients in a closed loop.

``python -m benchmarks.raw_http`` reads the arguments of `closed_loop` as lines of JSON, bodies in base 64, and answers
each with one: a process of its own, whose CPU time is known.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 120
BOUNDARY = "b0undary"


@dataclass(frozen=True)
class Answer:
    """An answer with lower-case headers; ``seconds`` are those since the call."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def request(method: str, path: str, body: bytes = b"", content_type: str | None = None) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {content_type}"] if content_type is not None else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def form(files: Sequence[bytes], field: str = "images") -> tuple[bytes, str]:
    """Return the body and the content type of a form of files."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="'
    kind = "\r\nContent-Type: image/png\r\n\r\n"
    parts = (f'{head}{number}.png"{kind}'.encode() + file for number, file in enumerate(files))
    return b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Read status, headers and body of an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return status, headers, await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, headers, body


class Connections:
    """As many connections from one address as requests are under way."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._port, self._source = port, source
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, content: bytes) -> Answer:
        """Send a request and return its answer; raise ``OSError`` where the connection is lost."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                break
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._source, 0))
        try:
            writer.write(content)
            status, headers, body = await answer_of(reader)
        except BaseException as error:
            writer.close()
            if isinstance(error, EOFError):
                raise ConnectionResetError("the service closed the connection") from error
            raise
        self._idle.append((reader, writer))
        return Answer(status, headers, body, loop.time() - began)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def cpu_seconds() -> float:
    """Return the CPU time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def closed_loop(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, ramp: float = 1.0
) -> dict[str, Any]:
    """Send scoring requests by clients that each send the next one when they have their answer.

    What is completed between ramp and end counts: its sorted latencies in seconds, and the CPU time of this process.
    """
    loop = asyncio.get_running_loop()
    begin = loop.time() + ramp
    end, latencies, errors, used = begin + seconds, list[float](), list[str](), list[float]()

    async def client(turn: int) -> None:
        connections = Connections(port)
        while loop.time() < end:
            answer = await connections.ask(requests[turn % len(requests)])
            turn += 1
            if answer.status != 200 or b"log_likelihood" not in answer.body:
                errors.append(f"{answer.status} {answer.body[:200].decode(errors='replace')}")
            elif begin <= loop.time() < end:
                latencies.append(answer.seconds)
        connections.close()

    async def watch() -> None:
        for moment in (begin, end):
            await asyncio.sleep(max(0.0, moment - loop.time()))
            used.append(cpu_seconds())

    async with asyncio.timeout(ramp + seconds + PATIENCE_S):
        found = await asyncio.gather(watch(), *map(client, range(clients)), return_exceptions=True)
    errors += [f"{type(one).__name__}: {one}" for one in found if isinstance(one, BaseException)]
    return {"seconds": seconds, "latencies": sorted(latencies), "client_cpu": used[1] - used[0], "errors": errors}


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        command["requests"] = [base64.b64decode(content) for content in command["requests"]]
        print(json.dumps(asyncio.run(closed_loop(**command))), flush=True)


if __name__ == "__main__":
    main()
