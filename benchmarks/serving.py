"""What HTTP costs beside the scores: CPU of one request, latency of one client, throughput of many.

`python -m benchmarks.serving`: serves in this process and asks from another one, over sockets that stay open. The CPU
that a request costs is that of the process without the scorer's `judge_each`, which gets one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from app.main import create_app
from app.server import SWITCH_S
from models.scorer import Scorer
from snf_runtime.images.file_decoding import open_image
from worker.settings import Settings

DIGITS = sorted((Path(__file__).resolve().parents[1] / "tests" / "data" / "mnist").glob("*.png"))
BOUNDARY = "together"


class Watch:
    """CPU seconds that the scorer took, and the images that it scored a call."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images: list[int] = []

    def measure(self, name: str) -> None:
        """Adds what calls of the scorer's method `name` take."""
        original: Callable[..., Any] = getattr(Scorer, name)

        def measured(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            found = original(*arguments, **named)
            self.seconds += time.thread_time() - began
            if name == "judge_each":
                self.images.append(len(found))
            return found

        setattr(Scorer, name, measured)


def request(kind: str, path: Path, model: str) -> bytes:
    """One request for one image, its head and its body."""
    body, content_type = path.read_bytes(), "image/png"
    if kind == "form":
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{path.name}"\r\n'
        body = f"{head}Content-Type: image/png\r\n\r\n".encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
    return (
        f"POST /v1/models/{model}/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def ask(port: int, bodies: list[bytes], clients: int, requests: int) -> list[float]:
    """The seconds that each request took, `clients` at once."""
    took: list[float] = []
    left = iter(range(requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            began = time.perf_counter()
            writer.write(bodies[number % len(bodies)])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(head.decode())
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return took


def elsewhere(port: int, kind: str, model: str, clients: int, requests: int) -> list[float]:
    """What :func:`ask` does, in another process."""
    command = [sys.executable, "-m", "benchmarks.serving", "--ask", str(port), kind, model, str(clients), str(requests)]
    found: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def serve(settings: Settings) -> uvicorn.Server:
    """A service in a thread of its own, ready to score."""
    sys.setswitchinterval(SWITCH_S)
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), port=settings.port, log_level="error", access_log=False)
    )
    threading.Thread(target=server.run, daemon=True).start()
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", trust_env=False) as client:
        while not server.started or client.get("/readyz").status_code != 200:
            time.sleep(0.1)
    return server


def in_process(scorer: Scorer, repeats: int) -> list[float]:
    """The seconds that one image takes without HTTP."""
    took = []
    for number in range(repeats):
        pixels = np.asarray(open_image(DIGITS[number % len(DIGITS)].read_bytes()).image)[None, None]
        began = time.perf_counter()
        scorer.anomalies(scorer.score(pixels))
        took.append(time.perf_counter() - began)
    return took


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mnist-snf-glow")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--ask", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        port, kind, model, clients, requests = arguments.ask
        bodies = [request(kind, path, model) for path in DIGITS]
        print(json.dumps(asyncio.run(ask(int(port), bodies, int(clients), int(requests)))))
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    watch = Watch()
    watch.measure("judge_each")
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), port=port, threads=1, redis_url="redis://127.0.0.1:1/0")
        server = serve(settings)
        scorer = Scorer.load(Path(__file__).resolve().parents[1] / "models" / "zoo" / arguments.model / "1")
        in_process(scorer, 10)
        for clients in (1, *arguments.clients):
            for kind in ("raw", "form"):
                elsewhere(port, kind, arguments.model, clients, 2 * clients)
                alone = in_process(scorer, 50)
                watch.seconds, watch.images = 0.0, []
                cpu = time.process_time()
                took = elsewhere(port, kind, arguments.model, clients, arguments.requests)
                cpu = time.process_time() - cpu - watch.seconds
                images, seconds = statistics.mean(watch.images), watch.seconds
                # Before and after, because machines change their pace.
                here = statistics.median(alone + in_process(scorer, 50))
                p50 = statistics.median(took)
                print(
                    f"{clients} clients, {kind}: p50 {1000 * p50:.2f} ms ({p50 / here:.2f} x in process, "
                    f"{1000 * here:.2f} ms), {arguments.requests / sum(took) * clients:.1f} images/s, {images:.1f} "
                    f"images a call; CPU a request: {1000 * cpu / arguments.requests:.2f} ms beside the scorer, "
                    f"{1000 * seconds / arguments.requests:.2f} ms in it",
                    flush=True,
                )
        server.should_exit = True


if __name__ == "__main__":
    main()
