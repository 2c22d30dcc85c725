"""The service over HTTP against its engine in process: the latency of one image, and saturation by many clients.

``python -m benchmarks.speed http``. Service, clients and nothing else share the machine's cores; the service is frozen
but for its turns, so that it uses none meanwhile.
"""

from __future__ import annotations

import base64
import os
import statistics
import sys
from contextlib import closing
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import DIGITS, IMPORT_PATH, cores, percentile
from benchmarks.installation import PatientClient, serving, temporary_home
from benchmarks.raw_http import request
from benchmarks.speed.ours import artifact, options
from benchmarks.speed.pairing import WARM_UP, Target, Turn, in_turns, ratio, timed
from benchmarks.speed.peers import Child, peer_environment
from benchmarks.speed.results import Context, figure
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model

TITLE = "Speed over HTTP, side by side"
MODEL = "speed"
PATH = f"/v1/models/{MODEL}/score"
CLIENTS = 64
AT_ONCE = 64
"""Images in a call of the engine in process."""


@dataclass(frozen=True)
class Found:
    """What one turn of load found: latencies in seconds, and the CPU time of the clients."""

    seconds: float
    latencies: list[float]
    client_cpu: float

    @property
    def throughput(self) -> float:
        """Images a second, as measured."""
        return len(self.latencies) / self.seconds

    @property
    def per_core_second(self) -> float:
        """Images a second of a core that the client left to the server."""
        return len(self.latencies) / (self.seconds * cores() - self.client_cpu)


def measure(context: Context) -> None:
    if not context.wants("http/one", "http/saturation"):
        return
    path = artifact(context.glow)
    scorer = load_model(path, options=options(context.threads))
    with temporary_home("http") as home:
        Registry(home / "registry").publish(path, MODEL, promote=True)
        variables = peer_environment(home, 1) | {"PYTHONPATH": IMPORT_PATH}
        generator = Child([sys.executable, "-m", "benchmarks.raw_http"], home, variables)
        with closing(generator), serving(home, threads=context.threads) as service:
            service.post(PATH, content=DIGITS[0].read_bytes(), headers={"Content-Type": "image/png"}).raise_for_status()
            os.killpg(service.pid, SIGSTOP)
            try:
                compare(context, scorer, service, generator)
            finally:
                os.killpg(service.pid, SIGCONT)


def load_turn(service: PatientClient, generator: Child, clients: int, seconds: float, kept: list[Found]) -> Turn:
    """Return a turn that lets the service run under load for its time; it returns the median latency in seconds."""
    contents = [request("POST", PATH, one.read_bytes(), "image/png") for one in DIGITS]
    requests = [base64.b64encode(content).decode() for content in contents]

    def turn() -> float:
        os.killpg(service.pid, SIGCONT)
        try:
            found = generator.ask(port=service.port, requests=requests, clients=clients, seconds=seconds)
        finally:
            os.killpg(service.pid, SIGSTOP)
        errors = found.pop("errors")
        if errors or not found["latencies"]:
            raise RuntimeError(f"expected scores alone in {seconds:g} s, got {len(found['latencies'])}; {errors[:3]}")
        kept.append(Found(**found))
        return percentile(kept[-1].latencies, 0.5)

    return turn


def repeated(scorer: Scorer, batches: list[Any], seconds: float) -> Turn:
    """Return a turn that scores and judges batches for some time, one after the other; the median seconds of one."""

    def turn() -> float:
        taken: list[float] = []
        while sum(taken) < seconds:
            batch = batches[len(taken) % len(batches)]
            taken.append(timed(lambda: scorer.verdicts(scorer.score(batch)))())  # noqa: B023
        return statistics.median(taken)

    return turn


def compare(context: Context, scorer: Scorer, service: PatientClient, generator: Child) -> None:
    images = np.stack([np.asarray(Image.open(one).convert("L"), dtype=np.uint8)[None] for one in DIGITS])
    many = np.concatenate([images] * (AT_ONCE // len(images) + 1))[:AT_ONCE]
    loads: list[Found] = []
    sides = {
        "one in process": repeated(scorer, [image[None] for image in images], context.seconds),
        "one over HTTP": load_turn(service, generator, 1, context.seconds, []),
        "many in process": repeated(scorer, [many], context.seconds),
        "many over HTTP": load_turn(service, generator, CLIENTS, context.seconds, loads),
    }
    seconds = in_turns(sides, context.rounds)
    loads = loads[WARM_UP:]
    context.record(
        "http/one",
        f"{context.glow}: one image over HTTP, median latency / the same in process",
        ratio(seconds["one over HTTP"], seconds["one in process"]),
        Target(high=1.15),
        **{
            "ms, median": {side: 1e3 * statistics.median(seconds[side]) for side in list(sides)[:2]},
            "compared": "POST of a PNG until its JSON is there, against score and verdict of its pixels",
            "engine": f"{scorer.density.engine_name}, {scorer.density.precision}",
        },
    )
    possible = [AT_ONCE / took for took in seconds["many in process"]]
    plain = ratio([found.throughput for found in loads], possible)
    context.record(
        "http/saturation",
        f"{context.glow}: {CLIENTS} clients, single images, by core-second that the clients leave / score and verdict "
        "in process",
        ratio([found.per_core_second for found in loads], [rate / cores() for rate in possible]),
        Target(low=0.95),
        **{
            "images/s": statistics.median(found.throughput for found in loads),
            "in process, images/s": statistics.median(possible),
            "as measured, nothing accounted": f"{figure(plain.median)} ({figure(plain.least)} to "
            f"{figure(plain.greatest)})",
            "p50 ms": 1e3 * statistics.median(percentile(found.latencies, 0.5) for found in loads),
            "p99 ms": 1e3 * statistics.median(percentile(found.latencies, 0.99) for found in loads),
            "clients' share of the cores": statistics.median(f.client_cpu / f.seconds / cores() for f in loads),
        },
    )
