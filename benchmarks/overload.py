"""Overload: what a service admits, and how long that takes, at rates below and beyond its capacity.

``python -m benchmarks.overload``: starts ``snf serve`` and measures its capacity by a closed loop of single images.
Then single images arrive at random moments, as a Poisson process that does not wait for answers, at multiples of it.
Every answer is compared with the score that its image got while nothing else was scored, to the bit. Every refusal must
be a 429 with ``Retry-After``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.installation import percentile
from benchmarks.raw_http import Answer, Connections, RoundRobin, request
from snf_runtime.images.codec import encode_png
from tests.end_to_end.support.service import running

RESULTS = Path(__file__).parent / "results"
RATES = (0.5, 0.9, 1.5, 3.0)
IMAGES = 64
CLIENTS = 64
REFERENCE, OVERLOAD, MAX_RATIO = 0.9, 3.0, 2.0
"""At the overload the p99 of what is admitted may be so many times that at the reference."""


@dataclass(frozen=True)
class Row:
    """One rate: arrivals and answers, latencies of what was admitted in milliseconds, and what was wrong."""

    rate: float
    offered_per_s: float
    arrivals: int
    admitted: int
    refused: int
    admitted_per_s: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    refusal_p99_ms: float
    generator_lag_p99_ms: float
    wrong_scores: int
    other_answers: dict[str, int]


def pictures(client: httpx.Client, model: str, count: int) -> list[bytes]:
    """Return samples of a model as PNG files: images that it can score, all different."""
    answer = client.get(f"/v1/models/{model}/samples", params={"n": count, "seed": 1, "format": "npy"})
    images = np.load(io.BytesIO(answer.raise_for_status().content))
    return [encode_png(one[None] if one.ndim == 2 else one.transpose(2, 0, 1)) for one in images]


def scored(answer: Answer) -> dict[str, Any]:
    """Return what must not depend on the load."""
    result = json.loads(answer.body)["results"][0]
    anomaly = result["anomaly"]
    kept = {name: result[name] for name in ("log_likelihood", "bits_per_dim", "terms")}
    return kept | {name: anomaly[name] for name in ("p_value", "is_anomaly")}


async def capacity(ports: Sequence[int], requests: list[bytes], seconds: float, clients: int = CLIENTS) -> float:
    """Return the images a second of clients that each send the next image when they have their answer."""
    connections = RoundRobin(ports)
    loop = asyncio.get_running_loop()
    begin = loop.time() + 1
    done: Counter[int] = Counter()

    async def client(number: int) -> None:
        while loop.time() < begin + seconds:
            number += 1
            answer = await connections.ask(requests[number % len(requests)])
            counted = begin <= loop.time() < begin + seconds
            done[answer.status] += counted

    await asyncio.gather(*(client(number) for number in range(clients)))
    connections.close()
    if set(done) != {200}:
        raise RuntimeError(f"{clients} clients got the answers {dict(done)}, expected 200 alone")
    return done[200] / seconds


async def arrivals(ports: Sequence[int], requests: list[bytes], per_second: float, seconds: float, seed: int) -> Any:
    """Send images at random moments and return (image, answer, seconds since it was due, lag of the sender) of each."""
    connections = RoundRobin(ports)
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    found: list[tuple[int, Answer, float, float]] = []

    async def one(number: int, due: float) -> None:
        lag = loop.time() - due
        answer = await connections.ask(requests[number])
        found.append((number, answer, loop.time() - due, lag))

    begin = due = loop.time() + 0.2
    async with asyncio.TaskGroup() as tasks:
        while (due := due + chance.expovariate(per_second)) < begin + seconds:
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            tasks.create_task(one(chance.randrange(len(requests)), due))
    connections.close()
    return found


def row(rate: float, seconds: float, found: Any, alone: list[dict[str, Any]]) -> Row:
    """Return what is said of one rate."""
    good = [(number, answer, took) for number, answer, took, _ in found if answer.status == 200]
    refused = [(answer, took) for _, answer, took, _ in found if answer.status == 429 and _asks_to_wait(answer)]
    others = Counter(str(answer.status) for _, answer, _, _ in found if answer.status not in (200, 429))
    others["429 without Retry-After"] = sum(
        answer.status == 429 and not _asks_to_wait(answer) for _, answer, _, _ in found
    )
    times = sorted(1e3 * took for _, _, took in good)
    return Row(
        rate=rate,
        offered_per_s=len(found) / seconds,
        arrivals=len(found),
        admitted=len(good),
        refused=len(refused),
        admitted_per_s=len(good) / seconds,
        p50_ms=percentile(times, 0.5),
        p99_ms=percentile(times, 0.99),
        worst_ms=times[-1],
        refusal_p99_ms=percentile(sorted(1e3 * took for _, took in refused), 0.99) if refused else 0.0,
        generator_lag_p99_ms=percentile(sorted(1e3 * lag for *_, lag in found), 0.99),
        wrong_scores=sum(scored(answer) != alone[number] for number, answer, _ in good),
        other_answers=dict(+others),
    )


def _asks_to_wait(answer: Answer) -> bool:
    return answer.headers.get("retry-after", "").isdigit() and int(answer.headers["retry-after"]) >= 1


def verdict(rows: list[Row]) -> tuple[bool, str]:
    """Return whether the target is met, and the sentence that says so."""
    by_rate = {one.rate: one for one in rows}
    wrong = sum(one.wrong_scores for one in rows)
    other = sum((Counter(one.other_answers) for one in rows), Counter[str]())
    met = wrong == 0 and not other
    others = ", ".join(f"{count} x {name}" for name, count in other.items()) or "none"
    text = f"{wrong} answers differ from the undisturbed score; answers that are no score and no refusal: {others}"
    if REFERENCE in by_rate and OVERLOAD in by_rate:
        ratio = by_rate[OVERLOAD].p99_ms / by_rate[REFERENCE].p99_ms
        met &= ratio <= MAX_RATIO
        text = f"admitted p99 at {OVERLOAD:g} x is {ratio:.2f} times that at {REFERENCE:g} x; " + text
    return met, text


def measure(model: str, seconds: float, rates: list[float], threads: int | None) -> dict[str, Any]:
    """Return all rows and the verdict."""
    settings: dict[str, Any] = {} if threads is None else {"threads": threads}
    with (
        tempfile.TemporaryDirectory(prefix="snf-overload-") as home,
        running("snf_app.cli.main", "serve", home=Path(home), **settings) as client,
    ):
        port = client.base_url.port
        assert port is not None
        images = pictures(client, model, IMAGES)
        requests = [request("POST", f"/v1/models/{model}/score", image, "image/png") for image in images]

        async def alone() -> list[dict[str, Any]]:
            connections = Connections(port)
            found = [scored(await connections.ask(one)) for one in requests]
            connections.close()
            return found

        undisturbed = asyncio.run(alone())
        most = asyncio.run(capacity([port], requests, max(5.0, seconds / 4)))
        print(f"{model}: capacity {most:.0f} images/s with {CLIENTS} clients", flush=True)
        rows = []
        for number, rate in enumerate(rates):
            time.sleep(1)
            found = asyncio.run(arrivals([port], requests, rate * most, seconds, number))
            rows.append(row(rate, seconds, found, undisturbed))
            print(json.dumps(asdict(rows[-1])), flush=True)
    met, text = verdict(rows)
    return {
        "model": model,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "capacity_per_s": most,
        "rows": [asdict(one) for one in rows],
        "met": met,
        "verdict": text,
    }


def report(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Overload",
        "",
        f"Single images of `{found['model']}`, {found['cores']} cores shared with the clients. Capacity, by {CLIENTS} "
        f"clients in a closed loop: {found['capacity_per_s']:.0f} images/s. Open loop, {found['seconds']:g} s a rate.",
        "",
        "| rate | offered /s | admitted /s | refused | p50 ms | p99 ms | worst ms | p99 of refusals ms | wrong |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found["rows"]:
        lines.append(
            f"| {one['rate']:g} | {one['offered_per_s']:.0f} | {one['admitted_per_s']:.0f} | {one['refused']} "
            f"({one['refused'] / one['arrivals']:.0%}) | {one['p50_ms']:.0f} | {one['p99_ms']:.0f} | "
            f"{one['worst_ms']:.0f} | {one['refusal_p99_ms']:.0f} | {one['wrong_scores']} |"
        )
    state = "met" if found["met"] else "MISSED"
    return "\n".join([*lines, "", f"Target {state}: {found['verdict']}.", ""])


def main() -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10-snf-glow", help="a shipped model (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="time of each rate (default: %(default)g)")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="multiples of the capacity")
    parser.add_argument("--threads", type=int, help="CPU threads of the service")
    parser.add_argument("--no-results", action="store_true", help="only print")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.seconds, arguments.rates, arguments.threads)
    text = report(found)
    print(text)
    if not arguments.no_results:
        (RESULTS / "overload.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "overload.md").write_text(text)
    return 0 if found["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
