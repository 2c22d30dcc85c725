"""A load test of one and two replicas of the service.

The replicas are processes of ``snf_app.server`` on one ``SNF_HOME``, each with one scoring thread and a port of its
own, and a client in this process gives them single images in turn.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.by_reference.rows import busy_cores
from benchmarks.installation import PatientClient, Running, running
from benchmarks.overload import IMAGES, arrivals, capacity, pictures, scored
from benchmarks.overload import row as row_of
from benchmarks.raw_http import RoundRobin, request
from benchmarks.scaling.compute import limit
from tests.end_to_end.support.service import free_port

RATES = (0.5, 0.9, 1.2)
COUNTS = (1, 2)
CLIENTS = 64
"""Clients that measure the capacity: as many as may wait at one replica, so that none is refused."""


@contextmanager
def replicas(home: Path, count: int) -> Iterator[list[tuple[int, Running]]]:
    """Run so many services on one home and give the port and the process of each, once it can score."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            port = free_port()
            process = stack.enter_context(
                running("snf_app.server", home=home, port=port, threads=1, runtime_dir=home / "run")
            )
            stack.enter_context(PatientClient(port)).await_ready(process)
            started.append((port, process))
        yield started


def measure(model: str, seconds: float, home: Path) -> dict[str, Any]:
    """Measure the capacity of one and two replicas, and rates around it."""
    others = busy_cores()
    # Up to ten seconds a process: shorter loops differ by what else the machine does.
    ratio, alone = limit(model, max(COUNTS), min(10.0, seconds))
    found: dict[str, Any] = {"model": model, "seconds": seconds, "compute_limit": ratio, "compute_alone": alone}
    found |= {"busy_cores": others, "capacity": {}, "rows": []}
    for count in COUNTS:
        with replicas(home, count) as started:
            ports = [port for port, _ in started]
            with PatientClient(ports[0]) as client:
                images = pictures(client, model, IMAGES)
            requests = [request("POST", f"/v1/models/{model}/score", image, "image/png") for image in images]
            undisturbed = asyncio.run(each_alone(ports, requests))
            most = found["capacity"][str(count)] = asyncio.run(capacity(ports, requests, min(10.0, seconds), CLIENTS))
            for number, rate in enumerate(RATES):
                time.sleep(1)
                answers = asyncio.run(arrivals(ports, requests, rate * most, seconds, number))
                row = row_of(rate, seconds, answers, undisturbed)
                share = row.refused / max(1, row.arrivals)
                found["rows"].append({"replicas": count} | asdict(row) | {"refused": share})
                print(json.dumps(found["rows"][-1]), flush=True)
    return found


async def each_alone(ports: Sequence[int], requests: list[bytes]) -> list[dict[str, Any]]:
    """Return what each replica answers to each image while nothing else is asked; raises where they differ."""
    answers = []
    for port in ports:
        connections = RoundRobin([port])
        answers.append([scored(await connections.ask(one)) for one in requests])
        connections.close()
    if any(found != answers[0] for found in answers):
        raise RuntimeError("the replicas answer differently")
    return answers[0]


def all_right(found: dict[str, Any]) -> bool:
    """Tell whether every answer was the right score or a refusal with ``Retry-After``."""
    return all(row["wrong_scores"] == 0 and not row["other_answers"] for row in found["rows"])


def table(found: dict[str, Any]) -> list[str]:
    """Return the capacities and the rates as lines of Markdown."""
    one, two = (found["capacity"][str(count)] for count in COUNTS)
    lines = [
        "| | measured |",
        "|---|---|",
        f"| two plain scoring loops over one: what this machine gives at most | {found['compute_limit']:.2f} |",
        f"| images/s of 1 replica | {one:.0f} |",
        f"| images/s of 2 replicas | {two:.0f} |",
        f"| two replicas over one | {two / one:.2f} |",
        "",
        "At multiples of the measured capacity:",
        "",
        "| replicas | rate | offered /s | images/s | p50 ms | p99 ms | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {row['replicas']} | {row['rate']:g} | {row['offered_per_s']:.0f} | {row['admitted_per_s']:.0f} "
        f"| {row['p50_ms']:.0f} | {row['p99_ms']:.0f} | {row['refused']:.0%} |"
        for row in found["rows"]
    ]


def text_of(found: dict[str, Any], described: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Replicas: load test",
        "",
        f"{described['cpu']}, {described['cores']} hardware threads shared by replicas and client, load "
        f"{described['load_before']:.1f} before. Single images of `{found['model']}`, a scoring thread a replica, "
        f"{found['seconds']:g} s a rate. The capacity is that of {CLIENTS} clients in a closed loop.",
        "",
        *table(found),
        "",
        f"Wrong scores: {sum(row['wrong_scores'] for row in found['rows'])}.",
    ]
    return "\n".join(lines) + "\n"
