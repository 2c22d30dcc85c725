"""The service over HTTP: against its engine in process, and against the same engine and a peer's behind frameworks.

``python -m benchmarks.speed http``. Servers, clients and nothing else share the machine's cores; whoever has not its
turn is frozen, so that it uses none.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.speed.artifact import artifact, registry
from benchmarks.speed.context import Context
from benchmarks.speed.convolutions import convolutions_alone
from benchmarks.speed.glow_rows import PeerGlow
from benchmarks.speed.http_servers import Server, behind, our_service
from benchmarks.speed.load import Driver, Found, driver
from benchmarks.speed.machine import cores
from benchmarks.speed.ours import options
from benchmarks.speed.pairing import WARM_UP, Ratio, Target, Turn, in_turns, ratio, timed
from benchmarks.speed.peers import PeerUnavailable, child, environments
from benchmarks.speed.results import figure
from snf_models.flows.architecture import GlowArchitecture
from snf_models.pipeline.presets import find_preset
from snf_models.scorer import Scorer, load_model
from tests.support.paths import DIGITS

TITLE = "Speed over HTTP, side by side"
MODEL = "speed"
FRAMEWORKS = ("litserve", "bentoml", "ray", "fastapi")
NAMES = {"litserve": "LitServe", "bentoml": "BentoML", "ray": "Ray Serve", "fastapi": "a plain FastAPI route"}
CLIENTS = 64
OUR_BATCH = 16
"""Requests that a framework joins before our engine, which takes them in tiles of its own."""
AT_ONCE = 64
"""Images in a call of the engine in process."""


def measure(context: Context) -> None:
    """Measure all rows."""
    path = artifact(context.glow)
    with tempfile.TemporaryDirectory(prefix="snf-http-") as name, ExitStack() as stack:
        home = Path(name)
        registry(home, MODEL, preset=context.glow)
        pictures = [one.read_bytes() for one in DIGITS]
        drive = stack.enter_context(driver(pictures))
        service = stack.enter_context(started(our_service(home, MODEL, context.threads), pictures[0]))
        scorer = load_model(path, options=options(context.threads))
        in_process(context, scorer, service, drive)
        batch = peer_batch(context) if context.wants(*(f"http/normflows-{one}" for one in FRAMEWORKS)) else 1
        for framework in FRAMEWORKS:
            against(context, framework, path, batch, service, drive, home)


@contextmanager
def started(server: Server, png: bytes) -> Iterator[Server]:
    """Wait for a server, then keep it frozen but for its turns, and stop it. Raises ``PeerUnavailable``."""
    try:
        server.await_ready(png)
        server.freeze()
        yield server
    finally:
        server.stop()


def turn_of(drive: Driver, server: Server, clients: int, seconds: float, kept: list[Found]) -> Turn:
    """Return a turn that thaws a server, loads it and freezes it again; it returns the median latency in seconds."""

    def turn() -> float:
        server.thaw()
        try:
            kept.append(drive.load(server, clients, seconds))
        finally:
            server.freeze()
        return kept[-1].latency(0.5)

    return turn


def in_process(context: Context, scorer: Scorer, service: Server, drive: Driver) -> None:
    """Measure one image over HTTP, and saturation by many clients, against the engine in this process."""
    if not context.wants("http/one", "http/saturation", "http/convolutions"):
        return
    images = np.stack([np.asarray(Image.open(one).convert("L"), dtype=np.uint8)[None] for one in DIGITS])
    one_by_one: list[list[float]] = []

    def one() -> float:
        turn = timed(lambda: scorer.verdicts(scorer.score(images[len(one_by_one) % len(images)][None])))
        seconds: list[float] = []
        while sum(seconds) < context.seconds:
            seconds.append(turn())
        one_by_one.append(seconds)
        return statistics.median(seconds)

    many = np.concatenate([images] * (AT_ONCE // len(images) + 1))[:AT_ONCE]
    batch = timed(lambda: scorer.verdicts(scorer.score(many)))
    alone, said = convolutions_alone(
        scorer.trained.pixels.engine, scorer.trained.pixels.frozen, AT_ONCE, context.threads
    )
    single: list[Found] = []
    loaded: list[Found] = []
    sides = {
        "one in process": one,
        "one over HTTP": turn_of(drive, service, 1, context.seconds, single),
        "many in process": lambda: for_seconds(batch, context.seconds),
        "many over HTTP": turn_of(drive, service, CLIENTS, context.seconds, loaded),
        "convolutions": lambda: for_seconds(alone, context.seconds),
    }
    seconds = in_turns(sides, context.rounds)
    single, loaded = single[WARM_UP:], loaded[WARM_UP:]
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
    for key, name, target, side in (
        ("saturation", "score and verdict in process", Target(low=0.95), "many in process"),
        ("convolutions", f"the convolutions alone ({said})", Target(low=0.9), "convolutions"),
    ):
        possible = [AT_ONCE / took / cores() for took in seconds[side]]
        context.record(
            f"http/{key}",
            f"{context.glow}: {CLIENTS} clients, single images, by core-second that the clients leave / {name}",
            ratio([found.per_core_second(cores()) for found in loaded], possible),
            target,
            **load_details({"our service": loaded}),
            **{"as measured, nothing accounted": as_measured(loaded, [AT_ONCE / took for took in seconds[side]])},
            **{"in process, images/s": AT_ONCE / statistics.median(seconds[side])},
        )


def for_seconds(turn: Turn, seconds: float) -> float:
    """Take a turn again and again for some seconds; return the mean seconds of one."""
    taken: list[float] = []
    while sum(taken) < seconds:
        taken.append(turn())
    return sum(taken) / len(taken)


def as_measured(loaded: list[Found], possible: list[float]) -> str:
    """Return the ratio of throughputs as text."""
    return spread(ratio([found.throughput for found in loaded], possible))


def spread(found: Ratio) -> str:
    """Return a ratio as text."""
    return f"{figure(found.median)} ({figure(found.least)} to {figure(found.greatest)})"


def load_details(sides: dict[str, list[Found]]) -> dict[str, Any]:
    """Return what the loads found, median over the rounds, a line a side."""
    details: dict[str, Any] = {}
    for side, loads in sides.items():
        details[side] = {
            "images/s": statistics.median(found.throughput for found in loads),
            "images a core-second left by the clients": statistics.median(f.per_core_second(cores()) for f in loads),
            "p50 ms": 1e3 * statistics.median(found.latency(0.5) for found in loads),
            "p99 ms": 1e3 * statistics.median(found.latency(0.99) for found in loads),
            "clients' share of the cores": statistics.median(f.client_cpu / f.seconds / cores() for f in loads),
        }
    return details


def peer_batch(context: Context) -> int:
    """Return the batch size at which normflows is fastest: the frameworks join so many requests for it."""
    try:
        with child("flows", "flows.py", context.threads) as process:
            peer = PeerGlow("normflows", process, context.glow, (1, 28, 28), context)
            return peer.best_batch("score", context.images)[0]
    except PeerUnavailable as problem:
        print(problem, flush=True)
        return 8


def against(
    context: Context, framework: str, path: Path, batch: int, service: Server, drive: Driver, folder: Path
) -> None:
    """Measure our service against our engine, and against normflows, behind one framework."""
    keys = {"ours": f"http/ours-{framework}", "normflows": f"http/normflows-{framework}"}
    late = f"http/ours-{framework}-p99"
    if not context.wants(*keys.values(), late):
        return
    architecture = find_preset(context.glow).architecture((1, 28, 28), "logit")
    assert isinstance(architecture, GlowArchitecture)
    glow = f"{architecture.levels},{architecture.steps},{architecture.hidden}"
    batches = {"ours": OUR_BATCH, "normflows": max(2, batch)}
    whats = {
        "ours": f"{context.glow}: our service / our engine behind {NAMES[framework]}, throughput",
        "normflows": f"{context.glow}: our service / normflows' eager Glow behind {NAMES[framework]}, throughput",
    }
    targets = {"ours": Target(low=0.97), "normflows": Target(low=1.65)}
    loads: dict[str, list[Found]] = {"our service": []}
    sides = {"our service": turn_of(drive, service, CLIENTS, context.seconds, loads["our service"])}
    with ExitStack() as stack:
        idle = {}
        for kind, key in keys.items():
            if not context.wants(key, *([late] if kind == "ours" else [])):
                continue
            try:
                server = behind(framework, kind, folder, context.threads, batches[kind], path, glow)
                stack.enter_context(started(server, DIGITS[0].read_bytes()))
                # Before it counts: one that fails under load is told, and the others go on.
                turn_of(drive, server, CLIENTS, context.seconds, [])()
            except PeerUnavailable as problem:
                context.failed(key, whats[kind], str(problem), targets[kind])
                continue
            server.thaw()
            idle[kind] = server.idle_share()
            server.freeze()
            loads[kind] = []
            sides[kind] = turn_of(drive, server, CLIENTS, context.seconds, loads[kind])
        if len(sides) == 1:
            return
        in_turns(sides, context.rounds)
    loads = {side: found[WARM_UP:] for side, found in loads.items()}
    for kind in (kind for kind in keys if kind in loads):
        ours = loads["our service"]
        context.record(
            keys[kind],
            whats[kind],
            ratio([found.throughput for found in ours], [found.throughput for found in loads[kind]]),
            targets[kind],
            **load_details({"our service": ours, f"{kind} behind {framework}": loads[kind]}),
            **{
                "clients": CLIENTS,
                "requests joined at most": "1, it has no batching" if framework == "fastapi" else batches[kind],
                "share of a core while idle, before it was frozen": idle[kind],
                "versions": environments()[framework].versions(),
            },
        )
        if kind == "ours":
            context.record(
                late,
                f"{context.glow}: our service / our engine behind {NAMES[framework]}, 99th percentile of latency",
                ratio([found.latency(0.99) for found in ours], [found.latency(0.99) for found in loads[kind]]),
                Target(high=1.0),
            )
