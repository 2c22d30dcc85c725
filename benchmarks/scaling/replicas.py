"""A load test of one and two replicas of the service, beside the simulation from costs measured in the same run.

The replicas are processes of ``app.server`` on one ``SNF_HOME``, each with one scoring thread and a port of its own,
and a client in this process gives them single images in turn. Nothing of the simulation is fitted to the load test.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.by_reference.rows import busy_cores, verdict
from benchmarks.installation import PatientClient, Running, running
from benchmarks.overload import IMAGES, Row, arrivals, capacity, pictures, scored
from benchmarks.overload import row as row_of
from benchmarks.raw_http import RoundRobin, request
from benchmarks.scaling.compute import batch_seconds, limit, line
from benchmarks.scaling.simulation import BATCH, Costs, Outcome, Simulation
from tests.end_to_end.support.service import free_port

RATES = (0.5, 0.9, 1.2)
COUNTS = (1, 2)
CLIENTS = 64
"""Clients that measure the capacity: as many as may wait at one replica, so that none is refused."""
SEEDS = 5
"""Runs of the simulation with other random arrivals, of which the median counts."""
RATE_WITHIN, LATENCY_WITHIN = 0.1, 2.0
"""Errors that pass: of images a second as a share, and of latencies as a factor."""
TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def replicas(home: Path, count: int) -> Iterator[list[tuple[int, Running]]]:
    """Run so many services on one home and give the port and the process of each, once it can score."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            port = free_port()
            process = stack.enter_context(
                running("app.server", home=home, port=port, threads=1, runtime_dir=home / "run")
            )
            stack.enter_context(PatientClient(port)).await_ready(process)
            started.append((port, process))
        yield started


@dataclass(frozen=True)
class RequestCost:
    """Seconds that a request takes in a closed loop: in all, and of CPU in event loop, service and client."""

    latency: float
    loop: float
    service: float
    client: float


def thread_seconds(pid: int, thread: int) -> float:
    """Return the CPU time of a thread; the first one of a process, which runs the event loop, has its number."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def process_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cost_of_requests(port: int, pid: int, requests: list[bytes], seconds: float, clients: int) -> RequestCost:
    """Return what a request costs while so many clients each wait for their answer before they send the next."""
    loop, service, own = thread_seconds(pid, pid), process_seconds(pid), time.process_time()
    rate = asyncio.run(capacity([port], requests, seconds, clients))
    # The clients warm up for a second, which counts here.
    count = rate * (seconds + 1)
    return RequestCost(
        clients / rate,
        (thread_seconds(pid, pid) - loop) / count,
        (process_seconds(pid) - service) / count,
        (time.process_time() - own) / count,
    )


def measure_costs(model: str, port: int, pid: int, requests: list[bytes], seconds: float) -> tuple[Costs, Any]:
    """Measure the costs of each part of a request, and return them with what they come from.

    Scoring is measured in a process of its own, the rest by the CPU time of the thread of the event loop. One client
    makes batches of one image, ``CLIENTS`` make full ones.
    """
    batches = batch_seconds(model)
    a, b = line(batches)
    health = cost_of_requests(port, pid, [request("GET", "/healthz")], seconds, 1)
    single = cost_of_requests(port, pid, requests, seconds, 1)
    full = cost_of_requests(port, pid, requests, seconds, CLIENTS)
    each, wake = loop_costs(single.loop, full.loop)
    rest = max(0.0, each - health.loop)
    costs = Costs(batch=a, image=b, head=health.loop, body=rest / 2, answer=rest / 2, wake=wake, client=full.client)
    in_ms = {
        name: {key: 1e3 * value for key, value in asdict(cost).items()}
        for name, cost in (("healthz", health), ("one_client", single), (f"{CLIENTS}_clients", full))
    }
    return costs, {"batch_ms": {size: 1e3 * taken for size, taken in batches.items()}, "requests_ms": in_ms}


def loop_costs(single: float, full: float) -> tuple[float, float]:
    """Return the seconds of the event loop for a request and for a batch, from those a request in batches of 1 and 32.

    >>> loop_costs(3.0, 1.0 + 2.0 / 32)
    (1.0, 2.0)
    """
    each = max(0.0, (BATCH * full - single) / (BATCH - 1))
    return each, max(0.0, single - each)


def compare(measured: Row, costs: Costs, count: int, cores: float, seconds: float, others: float) -> dict[str, Any]:
    """Return a measured rate beside the median of simulations of it, with their errors in percent and a verdict."""
    runs = [Simulation(costs, count, cores).poisson(measured.offered_per_s, seconds, seed) for seed in range(SEEDS)]
    simulated = median_of(runs)
    found = Outcome(
        measured.admitted_per_s, measured.p50_ms, measured.p99_ms, measured.refused / max(1, measured.arrivals)
    )
    errors = {
        name: 100 * (getattr(simulated, name) / getattr(found, name) - 1)
        for name in ("admitted_per_s", "p50_ms", "p99_ms")
    }
    return {
        "replicas": count,
        "rate": measured.rate,
        "offered_per_s": measured.offered_per_s,
        "measured": asdict(found),
        "simulated": asdict(simulated),
        "error_percent": errors,
        "verdict": {
            "rate": verdict(abs(errors["admitted_per_s"]) <= 100 * RATE_WITHIN, others),
            "latency": verdict(
                all(1 / LATENCY_WITHIN <= 1 + errors[name] / 100 <= LATENCY_WITHIN for name in ("p50_ms", "p99_ms")),
                others,
            ),
        },
        "client_lag_p99_ms": measured.generator_lag_p99_ms,
        "wrong_scores": measured.wrong_scores,
        "other_answers": measured.other_answers,
    }


def median_of(runs: Sequence[Outcome]) -> Outcome:
    """Return the median of each value."""
    return Outcome(**{name: statistics.median(getattr(run, name) for run in runs) for name in asdict(runs[0])})


def measure(model: str, seconds: float, home: Path) -> dict[str, Any]:
    """Measure costs and rates of one and two replicas, and simulate the same."""
    others = busy_cores()
    # Up to ten seconds a process: shorter loops differ by what else the machine does.
    ratio, alone = limit(model, max(COUNTS), min(10.0, seconds))
    print(f"{model}: two plain scoring loops give {ratio:.2f} times one", flush=True)
    # Less than one core is the work of other programs, which no simulation of this one can foresee.
    cores = max(1.0, ratio)
    found: dict[str, Any] = {"model": model, "seconds": seconds, "compute_limit": ratio, "compute_alone": alone}
    found["busy_cores"] = others
    rows: list[dict[str, Any]] = []
    capacities: dict[str, dict[str, float]] = {}
    costs: Costs | None = None
    for count in COUNTS:
        with replicas(home, count) as started:
            ports = [port for port, _ in started]
            with PatientClient(ports[0]) as client:
                images = pictures(client, model, IMAGES)
            requests = [request("POST", f"/v1/models/{model}/score", image, "image/png") for image in images]
            undisturbed = asyncio.run(each_alone(ports, requests))
            if costs is None:
                costs, found["cost_sources"] = measure_costs(
                    model, ports[0], started[0][1].process.pid, requests, min(10.0, seconds)
                )
                found["costs"] = asdict(costs)
            most = asyncio.run(capacity(ports, requests, min(10.0, seconds), CLIENTS))
            simulated = Simulation(costs, count, cores).closed(CLIENTS, 30.0)
            capacities[str(count)] = {"measured_per_s": most, "simulated_per_s": simulated.admitted_per_s}
            print(f"{count} replicas: {capacities[str(count)]}", flush=True)
            for number, rate in enumerate(RATES):
                time.sleep(1)
                answers = asyncio.run(arrivals(ports, requests, rate * most, seconds, number))
                rows.append(compare(row_of(rate, seconds, answers, undisturbed), costs, count, cores, seconds, others))
                print(json.dumps(rows[-1]), flush=True)
    return found | {"capacity": capacities, "rows": rows}


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


def within_bounds(found: dict[str, Any]) -> bool:
    """Tell whether the machine was quiet and every error is within its bound."""
    return all(set(row["verdict"].values()) == {"PASS"} for row in found["rows"])


def use_of(found: dict[str, Any]) -> str:
    """Return what the comparison says about the use of the simulation, in a sentence or two."""
    verdicts = {name: [row["verdict"][name] for row in found["rows"]] for name in ("rate", "latency")}
    passed = {name: values.count("PASS") for name, values in verdicts.items()}
    if "BUSY" in verdicts["rate"]:
        return (
            f"Other programs took {found['busy_cores']:.1f} cores. So the comparison says nothing about the "
            "simulation. Plan from measured rates alone, until it is repeated on a quiet machine."
        )
    counts = (
        f"In {passed['rate']} of {len(found['rows'])} rows the images/s of the simulation are within "
        f"{RATE_WITHIN:.0%} of the measured ones. In {passed['latency']} of them p50 and p99 are within a factor of "
        f"{LATENCY_WITHIN:g}. "
    )
    if passed["rate"] < len(found["rows"]):
        return counts + "Do not plan from the simulation. Measure the rate of a replica."
    if passed["latency"] < len(found["rows"]):
        return counts + "Use it for the number of replicas, and measure latencies."
    return counts + "Use it for the number of replicas and for latencies on similar machines."


def table(found: dict[str, Any]) -> list[str]:
    """Return the comparison as lines of Markdown."""
    lines = [
        "| replicas | rate | offered /s | images/s | p50 ms | p99 ms | refused | images/s, latencies |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        measured, simulated, errors = row["measured"], row["simulated"], row["error_percent"]
        cells = [
            f"{measured[name]:.0f} / {simulated[name]:.0f} ({errors[name]:+.0f} %)"
            for name in ("admitted_per_s", "p50_ms", "p99_ms")
        ]
        refused = f"{measured['refused']:.0%} / {simulated['refused']:.0%}"
        lines.append(
            f"| {row['replicas']} | {row['rate']:g} | {row['offered_per_s']:.0f} | {' | '.join(cells)} | {refused} "
            f"| {row['verdict']['rate']}, {row['verdict']['latency']} |"
        )
    return lines


def text_of(found: dict[str, Any], described: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    costs = {name: 1e3 * seconds for name, seconds in found["costs"].items()}
    loop = costs["head"] + costs["body"] + costs["answer"]
    capacities = "; ".join(
        f"{count}: {most['measured_per_s']:.0f} / {most['simulated_per_s']:.0f} images/s "
        f"({100 * (most['simulated_per_s'] / most['measured_per_s'] - 1):+.0f} %)"
        for count, most in found["capacity"].items()
    )
    measured = {int(count): most["measured_per_s"] for count, most in found["capacity"].items()}
    lines = [
        "# Replicas: load test / simulation",
        "",
        f"{described['cpu']}, {described['cores']} hardware threads shared by replicas and client, load "
        f"{described['load_before']:.1f} before. Single images of `{found['model']}`, a scoring thread a replica, "
        f"{found['seconds']:g} s a rate.",
        "",
        use_of(found),
        "",
        f"Costs in ms of one core: scoring a batch of n images {costs['batch']:.1f} + {costs['image']:.2f} n; "
        f"event loop {costs['wake']:.2f} + {loop:.2f} n; client {costs['client']:.2f} an image.",
        "",
        f"Two independent processes of the plain scoring loop give {found['compute_limit']:.2f} times one here: more "
        f"no two replicas can give on this machine. Two replicas gave {measured[2] / measured[1]:.2f} times one.",
        "",
        f"Capacity, by {CLIENTS} clients in a closed loop, measured / simulated, by replicas: {capacities}.",
        "",
        "Measured / simulated (error), at multiples of the capacity:",
        "",
        *table(found),
        "",
        f"Wrong scores: {sum(row['wrong_scores'] for row in found['rows'])}.",
    ]
    return "\n".join(lines) + "\n"
