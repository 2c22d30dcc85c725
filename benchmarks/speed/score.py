"""Scoring: ``python -m benchmarks.speed score``. A Glow beside normflows, nflows, and its convolutions alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.speed.convolutions import convolutions_alone
from benchmarks.speed.ours import Ours, coupling_work, random_flow
from benchmarks.speed.pairing import Target, Turn, in_turns, ratio, timed
from benchmarks.speed.peers import FLOWS, Child, PeerUnavailable, flows_child
from benchmarks.speed.results import Context
from snf_models.flows.architecture import GlowArchitecture
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.frozen import constant_log_dets, freeze

TITLE = "Scoring speed, side by side"
LIBRARIES = ("normflows", "nflows")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BATCH = 32
SEARCHES = 2
SAME_WORK = 0.02
CONV, COLOUR = "snf-conv-9l", (3, 32, 32)
Size = tuple[int, int, int]


def measure(context: Context) -> None:
    glow(context, "glow-2l-16k", context.glow, (1, 28, 28), at_batch=Target(low=2.4))
    stored_log_dets(context)
    glow(context, "glow-3l-32k", "snf-glow-tiny" if context.quick else "snf-glow-3l-32k", COLOUR)


class PeerGlow:
    """A library's Glow in a process of its own."""

    def __init__(
        self, library: str, process: Child, preset: str, shape: Size, context: Context, **options: Any
    ) -> None:
        architecture = find_preset(preset).architecture(shape, "logit")
        assert isinstance(architecture, GlowArchitecture)
        sizes = {"levels": architecture.levels, "steps": architecture.steps, "width": architecture.hidden}
        options |= {"threads": context.threads, "images": context.images}
        self.process = process
        self.work = process.ask(do="build", library=library, shape=list(shape), **sizes, **options)

    def turn(self, do: str, images: int, batch: int) -> Turn:
        """Return a turn that scores, samples or trains on so many images in such batches."""
        return lambda: float(self.process.ask(do=do, images=images, batch=batch)["seconds"])

    def best_batch(self, do: str, images: int) -> tuple[int, dict[str, float]]:
        """Return the fastest batch size, and images a second for each."""
        found = {}
        for batch in (batch for batch in BATCHES if batch <= images):
            turn = self.turn(do, images, batch)
            turn()
            found[batch] = images / min(turn() for _ in range(SEARCHES))
        best = max(found, key=lambda batch: found[batch])
        return best, {f"batch {batch}": round(speed, 2) for batch, speed in found.items()}


def work_of(ours: Ours, peers: dict[str, PeerGlow], shape: Size) -> dict[str, Any]:
    """Return how much work each side does. Raises ``ValueError`` where they differ by more than 2 %."""
    mine = coupling_work(ours.flow, shape)
    for library, peer in peers.items():
        for key in ("coupling_parameters", "products"):
            if abs(peer.work[key] / mine[key] - 1) > SAME_WORK:
                raise ValueError(f"{library} is another model: {key} {peer.work[key]}, ours {mine[key]}")

    def said(work: dict[str, Any]) -> str:
        total, nets, products = work["parameters"] / 1e6, work["coupling_parameters"] / 1e6, work["products"] / 1e9
        return f"{total:.2f} M parameters, {nets:.2f} M of them in coupling nets of {products:.3f} G products an image"

    return {"work of ours": said(mine)} | {f"work of {name}": said(peer.work) for name, peer in peers.items()}


def glow(context: Context, name: str, preset: str, shape: Size, at_batch: Target | None = None) -> None:
    """Measure the rows of one Glow."""
    rows = ("best", f"batch{BATCH}", "channels_last", "convolutions", "bfloat16")
    if not context.wants(*(f"{name}/{row}" for row in rows)):
        return
    said, images = f"{preset} {'x'.join(map(str, shape))}", context.images
    ours = Ours.build(preset, shape, images, context.threads)
    half = Ours.build(preset, shape, images, context.threads, "bfloat16")
    assert ours is not None
    limit, limit_said = convolutions_alone(ours.engine, ours.frozen, images, context.threads)
    sides = {"ours": ours.score(), "convolutions": limit} | ({} if half is None else {"bfloat16": half.score()})
    details: dict[str, Any] = {"engine of ours": ours.describe(), "images a turn": images}
    best: dict[str, int] = {}
    with ExitStack() as stack:
        peers: dict[str, PeerGlow] = {}
        try:
            for library in LIBRARIES if context.wants(*(f"{name}/{row}" for row in rows[:3])) else ():
                for order in ("", " channels_last"):
                    process = stack.enter_context(flows_child(context.threads))
                    peer = PeerGlow(library, process, preset, shape, context, channels_last=bool(order))
                    side = library + order
                    best[side], details[f"{side}, images/s"] = peer.best_batch("score", images)
                    sides[side] = peer.turn("score", images, best[side])
                    if not order:
                        peers[library] = peer
                        sides[f"{library} {BATCH}"] = peer.turn("score", images, min(BATCH, images))
            details |= work_of(ours, peers, shape)
        except PeerUnavailable as problem:
            context.record(f"{name}/best", f"{said}: ours / best peer", None, Target(low=1.65), problem=str(problem))
            sides = {side: turn for side, turn in sides.items() if side in ("ours", "convolutions", "bfloat16")}
            best = {}
        seconds = in_turns(sides, context.rounds)
    speeds = {side: images / float(np.median(took)) for side, took in seconds.items()}
    details["images/s, median"] = speeds

    def against(row: str, what: str, suffix: str, target: Target | None = None, **extra: Any) -> None:
        first = max((f"{library}{suffix}" for library in LIBRARIES), key=lambda side: speeds[side])
        at = f", batch {best[first]}" if first in best else ""
        found = ratio(seconds[first], seconds["ours"])
        context.record(f"{name}/{row}", f"{said}: ours / best peer {what} ({first}{at})", found, target, **extra)

    if best:
        versions = FLOWS.versions()
        against("best", "at its best batch", "", Target(low=1.65), **details, versions=versions)
        against(f"batch{BATCH}", f"at batch {BATCH}", f" {BATCH}", at_batch)
        against("channels_last", "brought to channels_last by hand, at its best batch", " channels_last")
    context.record(
        f"{name}/convolutions",
        f"{said}: ours / its convolutions alone ({limit_said})",
        ratio(seconds["convolutions"], seconds["ours"]),
        Target(low=0.9),
    )
    context.record(
        f"{name}/bfloat16",
        f"{said}: ours in bfloat16 / ours in float32",
        None if half is None else ratio(seconds["ours"], seconds["bfloat16"]),
        Target(low=1.5),
        **({"problem": "no engine computes in bfloat16 here"} if half is None else {"engine": half.describe()}),
    )


def stored_log_dets(context: Context) -> None:
    """Measure freezing with stored log-dets against computing them; reading their file costs both the same."""
    if not context.wants("conv/log-dets"):
        return
    flow = random_flow(CONV, COLOUR)
    log_dets = constant_log_dets(flow, COLOUR)
    stored = timed(lambda: freeze(flow, COLOUR, log_dets), 3)
    computed = timed(lambda: freeze(flow, COLOUR, constant_log_dets(flow, COLOUR)))
    seconds = in_turns({"stored": stored, "computed": computed}, context.rounds)
    context.record(
        "conv/log-dets",
        f"{CONV} {'x'.join(map(str, COLOUR))}: freezing with stored log-dets / computing them and freezing",
        ratio(seconds["stored"], seconds["computed"]),
        Target(high=0.05),
        **{"ms, median": {side: 1e3 * float(np.median(took)) for side, took in seconds.items()}},
    )
