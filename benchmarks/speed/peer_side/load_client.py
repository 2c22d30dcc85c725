"""Keep-alive clients in a process of their own: reads commands as lines of JSON, answers each with one.

    {"do": "drive", "port": 8000, "path": "/score", "headers": {...}, "bodies": [BASE64...], "clients": 64,
     "seconds": 6, "ramp": 1}

Every client sends its next request when it has its answer. What counts is completed between ramp and end. The client
costs time on the same cores: its own CPU seconds of that time are in the answer.
"""

import asyncio
import base64
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

ANSWER_S = 120


@dataclass
class Load:
    """A running load: when it counts, and what was found."""

    begin: float
    end: float
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sample: str = ""


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one HTTP/1.1 answer and return its status and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return status, await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, body


async def client(port: int, requests: list[bytes], first: int, load: Load) -> None:
    """Send requests on one connection until the load ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = first
    try:
        while (began := time.perf_counter()) < load.end:
            writer.write(requests[turn % len(requests)])
            turn += 1
            status, body = await answer_of(reader)
            ended = time.perf_counter()
            if status != 200 or b"log_likelihood" not in body:
                load.errors.append(f"{status} {body[:200].decode(errors='replace')}")
            elif load.begin <= ended < load.end:
                load.latencies.append(ended - began)
            load.sample = load.sample or body.decode(errors="replace")
    finally:
        writer.close()


def cpu_seconds() -> float:
    """Return the CPU time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def drive(
    port: int, path: str, headers: dict[str, str], bodies: list[str], clients: int, seconds: float, ramp: float
) -> dict[str, Any]:
    """Load a server and return what was found."""
    requests = []
    for body in map(base64.b64decode, bodies):
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        requests.append("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    now = time.perf_counter()
    load = Load(now + ramp, now + ramp + seconds)
    used: list[float] = []

    async def watch() -> None:
        for moment in (load.begin, load.end):
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            used.append(cpu_seconds())

    tasks = [client(port, requests, number, load) for number in range(clients)]
    async with asyncio.timeout(ramp + seconds + ANSWER_S):
        found = await asyncio.gather(watch(), *tasks, return_exceptions=True)
    load.errors += [f"{type(one).__name__}: {one}" for one in found if isinstance(one, BaseException)]
    return {
        "seconds": seconds,
        "completed": len(load.latencies),
        "latencies": sorted(load.latencies),
        "client_cpu": used[1] - used[0],
        "errors": len(load.errors),
        "first_errors": load.errors[:3],
        "sample": load.sample,
    }


def main() -> None:
    """Answer commands until the input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        command.pop("do")
        try:
            found = asyncio.run(drive(**command))
        except Exception as error:  # the other end is told, whatever it is
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
