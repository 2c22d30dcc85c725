"""Greedy scoring: how long single images of a polite client take beside one that takes all it can get.

``python -m benchmarks.greedy_scoring``: starts ``snf serve`` and sends single images one by one from an address
of their own, alone and beside each way of being greedy. The unit is the time of one full batch of 32 images alone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.installation import percentile
from benchmarks.overload import pictures
from benchmarks.raw_http import Connections, request
from tests.end_to_end.service import running

RESULTS = Path(__file__).parent / "results"
GREEDY, POLITE = "127.0.0.1", "127.0.0.2"
BATCH, MOST = 32, 4.0
PAUSE_S = 0.02
"""Time between two images of the polite client."""


@dataclass(frozen=True)
class Way:
    """A way of being greedy: a request, and how many are under way at once from each of so many addresses."""

    name: str
    content: bytes
    at_once: int = 1
    addresses: int = 1


def array(images: np.ndarray[Any, Any], count: int) -> bytes:
    """Return so many images as ``.npy``, the given ones again and again."""
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([images] * (count // len(images) + 1))[:count])
    return buffer.getvalue()


def ways(model: str, images: np.ndarray[Any, Any]) -> list[Way]:
    """Return the ways."""
    path = f"/v1/models/{model}"

    def score(count: int, query: str = "") -> bytes:
        return request("POST", f"{path}/score{query}", array(images, count), "application/x-npy")

    def get(rest: str) -> bytes:
        return request("GET", f"{path}/{rest}")

    return [
        Way("256 samples with likelihoods", get("samples?n=256&format=json"), 2),
        Way("256 samples as a PNG grid", get("samples?n=256&format=png"), 4),
        Way("256 samples as a zip", get("samples?n=256&format=zip"), 4),
        Way("64 explanations with gradients", score(64, "?explain=true&detail=full"), 2),
        Way("64 explanations", score(64, "?explain=true"), 4),
        Way("64 thorough verdicts", score(64, "?detail=full"), 4),
        Way("8 images of 256 draws", score(8, "?draws=256"), 2),
        Way("arrays of 1,024 images from three addresses", score(1024), 2, 3),
        Way("arrays of 1,024 images from one address", score(1024), 8),
        Way("audits of 16 images", get("audit?n=16"), 4),
        Way("64 single images at once", request("POST", f"{path}/score", array(images, 1), "application/x-npy"), 64),
    ]


async def take_all(port: int, way: Way, ready: Any, stop: Any, answers: Any) -> None:
    """Send a way's requests again and again until told to stop."""
    counts: Counter[int] = Counter()

    async def client(address: str) -> None:
        connections = Connections(port, address)
        while not stop.is_set():
            answer = await connections.ask(way.content)
            counts[answer.status] += 1
            if answer.status == 429:
                # A loop that only collects refusals as fast as it can is another way than the one meant here.
                await asyncio.sleep(0.05)

    addresses = [GREEDY, *(f"127.0.0.{10 + number}" for number in range(1, way.addresses))]
    tasks = [asyncio.create_task(client(address)) for address in addresses for _ in range(way.at_once)]
    await asyncio.sleep(0.5)
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    failed = [error for error in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(error, Exception)]
    answers.put((dict(counts), [repr(error) for error in failed[:3]]))


def greedy(port: int, way: Way, ready: Any, stop: Any, answers: Any) -> None:
    """Run the greedy clients in a process of their own."""
    asyncio.run(take_all(port, way, ready, stop, answers))


async def politely(port: int, requests: list[bytes], seconds: float) -> list[tuple[int, float]]:
    """Send single images one after the other; return status and seconds of each."""
    connections = Connections(port, POLITE)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    found: list[tuple[int, float]] = []
    while loop.time() < end:
        answer = await connections.ask(requests[len(found) % len(requests)])
        found.append((answer.status, answer.seconds))
        await asyncio.sleep(PAUSE_S)
    connections.close()
    return found


async def full_batch(port: int, content: bytes) -> float:
    """Return the median seconds of one full batch alone."""
    connections = Connections(port, GREEDY)
    seconds = [(await connections.ask(content)).seconds for _ in range(20)]
    connections.close()
    return statistics.median(seconds)


def beside(port: int, way: Way, requests: list[bytes], seconds: float) -> tuple[list[tuple[int, float]], Any]:
    """Return the polite client's answers beside a greedy one, and what that got."""
    context = multiprocessing.get_context("spawn")
    ready, stop, answers = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=greedy, args=(port, way, ready, stop, answers), daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError(f"the greedy client did not start: {way.name}")
        found = asyncio.run(politely(port, requests, seconds))
        stop.set()
        return found, answers.get(timeout=60)
    finally:
        process.kill()
        process.join()


def measure(model: str, seconds: float, chosen: Callable[[str], bool], threads: int | None) -> dict[str, Any]:
    """Return the rows and whether the target is met."""
    settings: dict[str, Any] = {} if threads is None else {"threads": threads}
    with (
        tempfile.TemporaryDirectory(prefix="snf-greedy-") as home,
        running("app.cli", "serve", home=Path(home), **settings) as client,
    ):
        port = client.base_url.port
        assert port is not None
        images = samples(client, model)
        requests = [
            request("POST", f"/v1/models/{model}/score", one, "image/png") for one in pictures(client, model, BATCH)
        ]
        batch = request("POST", f"/v1/models/{model}/score", array(images, BATCH), "application/x-npy")
        unit = asyncio.run(full_batch(port, batch))
        print(f"{model}: a full batch alone takes {1e3 * unit:.1f} ms", flush=True)
        rows = [row("nothing else", asyncio.run(politely(port, requests, seconds)), ({}, []), unit)]
        for way in ways(model, images):
            if chosen(way.name):
                rows.append(row(way.name, *beside(port, way, requests, seconds), unit))
                # The work of the greedy client ends before the next one begins.
                time.sleep(2)
    return {
        "model": model,
        "cores": os.cpu_count(),
        "full_batch_ms": 1e3 * unit,
        "rows": rows,
        "met": all(one["p99_batches"] <= MOST and set(one["polite"]) == {"200"} for one in rows),
    }


def samples(client: httpx.Client, model: str) -> np.ndarray[Any, Any]:
    """Return samples of a model as an array that it can score."""
    answer = client.get(f"/v1/models/{model}/samples", params={"n": BATCH, "seed": 1, "format": "npy"})
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(answer.raise_for_status().content))
    return found


def row(name: str, polite: list[tuple[int, float]], greedy_answers: Any, unit: float) -> dict[str, Any]:
    """Return what is said of one way, and print it."""
    times = sorted(seconds for status, seconds in polite if status == 200)
    p99 = percentile(times, 0.99) if times else float("inf")
    found = {
        "beside": name,
        "polite": {str(status): count for status, count in Counter(status for status, _ in polite).items()},
        "p50_ms": 1e3 * percentile(times, 0.5) if times else None,
        "p99_ms": 1e3 * p99,
        "worst_ms": 1e3 * times[-1] if times else None,
        "p99_batches": p99 / unit,
        "greedy": {str(status): count for status, count in greedy_answers[0].items()},
        "greedy_errors": greedy_answers[1],
    }
    print(json.dumps(found), flush=True)
    return found


def report(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# One greedy client beside a polite one: scoring",
        "",
        f"`{found['model']}`, {found['cores']} cores shared with the clients. A full batch of {BATCH} images alone "
        f"takes {found['full_batch_ms']:.0f} ms. The polite client sends single images one after the other.",
        "",
        "| beside | polite p50 ms | p99 ms | worst ms | p99 in full batches | polite answers | greedy answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found["rows"]:
        polite = ", ".join(f"{count} x {status}" for status, count in one["polite"].items())
        taken = ", ".join(f"{count} x {status}" for status, count in one["greedy"].items())
        lines.append(
            f"| {one['beside']} | {one['p50_ms']:.0f} | {one['p99_ms']:.0f} | {one['worst_ms']:.0f} | "
            f"{one['p99_batches']:.2f} | {polite} | {taken} |"
        )
    state = "met" if found["met"] else "MISSED"
    return "\n".join([*lines, "", f"Target {state}: polite p99 at most {MOST:g} full batches, none refused.", ""])


def main() -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10-snf-glow", help="a shipped model (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="time beside each way (default: %(default)g)")
    parser.add_argument("--only", default="", help="only ways whose name contains this")
    parser.add_argument("--threads", type=int, help="CPU threads of the service")
    parser.add_argument("--no-results", action="store_true", help="only print")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.seconds, lambda name: arguments.only in name, arguments.threads)
    text = report(found)
    print(text)
    if not arguments.no_results:
        (RESULTS / "greedy_scoring.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "greedy_scoring.md").write_text(text)
    return 0 if found["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
