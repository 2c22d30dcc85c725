"""Overload: what a service admits, and how long that takes, at rates below and beyond its capacity.

``python -m benchmarks.overload`` starts the service and measures its capacity by a closed loop of single images.
Then single images arrive at random moments, as a Poisson process that does not wait for answers, at multiples of it.
Every answer is compared with the score that its image got while nothing else was scored, to the bit. Every refusal must
be a 429 with ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np

from benchmarks.common import RESULTS, cores, parser_of, percentile, table, write_results
from benchmarks.installation import serving, temporary_home
from benchmarks.raw_http import Answer, Connections, closed_loop, request
from snf_runtime.images.codec import encode_png

RATES = (0.5, 0.9, 1.5, 3.0)
IMAGES = 64
CLIENTS = 64
REFERENCE, OVERLOAD, MAX_RATIO = 0.9, 3.0, 2.0
"""At the overload the p99 of what is admitted may be so many times that at the reference."""


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


async def arrivals(port: int, requests: list[bytes], per_second: float, seconds: float, seed: int) -> Any:
    """Send images at random moments and return (image, answer, seconds since it was due, lag of the sender) of each."""
    connections = Connections(port)
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


def row(rate: float, seconds: float, found: Any, alone: list[dict[str, Any]]) -> dict[str, Any]:
    """Return arrivals and answers of one rate, latencies of what was admitted, and what was wrong."""
    good = [(number, answer, 1e3 * took) for number, answer, took, _ in found if answer.status == 200]
    refusals = [1e3 * took for _, answer, took, _ in found if refused(answer)]
    others = Counter(answer.status for _, answer, _, _ in found if answer.status != 200 and not refused(answer))
    times = [took for *_, took in good]
    return {
        "rate": rate,
        "offered_per_s": len(found) / seconds,
        "arrivals": len(found),
        "admitted": len(good),
        "refused": len(refusals),
        "admitted_per_s": len(good) / seconds,
        "p50_ms": percentile(times, 0.5),
        "p99_ms": percentile(times, 0.99),
        "worst_ms": max(times),
        "refusal_p99_ms": percentile(refusals, 0.99) if refusals else 0.0,
        "generator_lag_p99_ms": percentile([1e3 * lag for *_, lag in found], 0.99),
        "wrong_scores": sum(scored(answer) != alone[number] for number, answer, _ in good),
        "other_answers": {str(status): count for status, count in others.items()},
    }


def refused(answer: Answer) -> bool:
    """Whether the service asks to come again; a 429 without a time is another answer."""
    return answer.status == 429 and answer.headers.get("retry-after", "").isdigit()


def verdict(rows: list[dict[str, Any]]) -> tuple[bool, str]:
    """Return whether the target is met, and the sentence that says so."""
    by_rate = {one["rate"]: one for one in rows}
    wrong = sum(one["wrong_scores"] for one in rows)
    other = sum((Counter(one["other_answers"]) for one in rows), Counter[str]())
    met = wrong == 0 and not other
    others = ", ".join(f"{count} x {name}" for name, count in other.items()) or "none"
    text = f"{wrong} answers differ from the undisturbed score; answers that are no score and no refusal: {others}"
    if REFERENCE in by_rate and OVERLOAD in by_rate:
        ratio = by_rate[OVERLOAD]["p99_ms"] / by_rate[REFERENCE]["p99_ms"]
        met &= ratio <= MAX_RATIO
        text = f"admitted p99 at {OVERLOAD:g} x is {ratio:.2f} times that at {REFERENCE:g} x; " + text
    return met, text


def capacity(port: int, requests: list[bytes], seconds: float) -> float:
    """Return the images a second of clients that each send the next image when they have their answer."""
    found = asyncio.run(closed_loop(port, requests, CLIENTS, seconds))
    if found["errors"]:
        raise RuntimeError(f"expected scores alone, got {len(found['errors'])} other answers: {found['errors'][:3]}")
    return len(found["latencies"]) / seconds


def measure(model: str, seconds: float, rates: list[float], threads: int | None) -> dict[str, Any]:
    settings = {} if threads is None else {"threads": threads}
    with temporary_home("overload") as home, serving(home, **settings) as client:
        images = pictures(client, model, IMAGES)
        requests = [request("POST", f"/v1/models/{model}/score", image, "image/png") for image in images]

        async def alone() -> list[dict[str, Any]]:
            connections = Connections(client.port)
            found = [scored(await connections.ask(one)) for one in requests]
            connections.close()
            return found

        undisturbed = asyncio.run(alone())
        most = capacity(client.port, requests, max(5.0, seconds / 4))
        print(f"{model}: capacity {most:.0f} images/s with {CLIENTS} clients", flush=True)
        rows = []
        for number, rate in enumerate(rates):
            time.sleep(1)
            found = asyncio.run(arrivals(client.port, requests, rate * most, seconds, number))
            rows.append(row(rate, seconds, found, undisturbed))
            print(json.dumps(rows[-1]), flush=True)
    met, text = verdict(rows)
    found = {"rows": rows, "met": met, "verdict": text}
    return {"model": model, "seconds": seconds, "cores": cores(), "capacity_per_s": most} | found


def report(found: dict[str, Any]) -> str:
    heads = (
        "rate",
        "offered /s",
        "admitted /s",
        "refused",
        "p50 ms",
        "p99 ms",
        "worst ms",
        "p99 of refusals ms",
        "wrong",
    )
    rows = [
        (
            f"{one['rate']:g}",
            f"{one['offered_per_s']:.0f}",
            f"{one['admitted_per_s']:.0f}",
            f"{one['refused']} ({one['refused'] / one['arrivals']:.0%})",
            *(f"{one[name]:.0f}" for name in ("p50_ms", "p99_ms", "worst_ms", "refusal_p99_ms")),
            one["wrong_scores"],
        )
        for one in found["rows"]
    ]
    text = (
        f"Single images of `{found['model']}`, {found['cores']} cores shared with the clients. Capacity, by {CLIENTS} "
        f"clients in a closed loop: {found['capacity_per_s']:.0f} images/s. Open loop, {found['seconds']:g} s a rate."
    )
    state = "met" if found["met"] else "MISSED"
    return "\n".join(["# Overload", "", text, "", *table(heads, rows), "", f"Target {state}: {found['verdict']}.", ""])


def main() -> int:
    parser = parser_of("overload", __doc__)
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
        write_results(RESULTS, "overload", found, text)
    return 0 if found["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
