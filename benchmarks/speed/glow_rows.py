"""Scoring with a Glow: ours against normflows, nflows, plain PyTorch, and the convolutions alone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.speed.context import Context
from benchmarks.speed.convolutions import convolutions_alone
from benchmarks.speed.ours import Ours, coupling_work
from benchmarks.speed.pairing import Target, Turn, in_turns, ratio
from benchmarks.speed.peers import Child, PeerUnavailable, child, environments
from snf_models.flows.architecture import GlowArchitecture
from snf_models.pipeline.presets import find_preset

LIBRARIES = ("normflows", "nflows")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BATCH = 32
SEARCHES = 2
SAME_WORK = 0.02

Size = tuple[int, int, int]


class PeerGlow:
    """A library's Glow in a process of its own."""

    def __init__(
        self, library: str, process: Child, preset: str, shape: Size, context: Context, **options: Any
    ) -> None:
        architecture = find_preset(preset).architecture(shape, "logit")
        assert isinstance(architecture, GlowArchitecture)
        self.library = library
        self.process = process
        self.work = process.ask(
            "build",
            library=library,
            shape=list(shape),
            levels=architecture.levels,
            steps=architecture.steps,
            width=architecture.hidden,
            threads=context.threads,
            images=context.images,
            **options,
        )
        self.images = context.images

    def turn(self, do: str, images: int, batch: int) -> Turn:
        """Return a turn that scores or samples so many images in such batches."""
        return lambda: self.process.seconds(do, images=images, batch=batch)

    def best_batch(self, do: str, images: int) -> tuple[int, dict[str, float]]:
        """Return the fastest batch size, and images a second for each."""
        found = {}
        for batch in BATCHES:
            if batch > images:
                break
            turn = self.turn(do, images, batch)
            turn()
            found[batch] = images / min(turn() for _ in range(SEARCHES))
        best = max(found, key=lambda batch: found[batch])
        return best, {f"batch {batch}": round(speed, 2) for batch, speed in found.items()}


def open_peers(
    stack: ExitStack, preset: str, shape: Size, context: Context, **options: Any
) -> tuple[dict[str, PeerGlow], dict[str, str]]:
    """Start every library's Glow; return those that run, and why the others do not."""
    running, problems = {}, {}
    for library in LIBRARIES:
        try:
            process = stack.enter_context(child("flows", "flows.py", context.threads))
            running[library] = PeerGlow(library, process, preset, shape, context, **options)
        except PeerUnavailable as problem:
            problems[library] = str(problem)
    return running, problems


def work_of(ours: Ours, peers: dict[str, PeerGlow], shape: Size) -> dict[str, Any]:
    """Return how much work each side does. Raises ``ValueError`` where they differ by more than 2 %."""
    mine = coupling_work(ours.flow, shape)
    for peer in peers.values():
        for key in ("coupling_parameters", "products"):
            if abs(peer.work[key] / mine[key] - 1) > SAME_WORK:
                raise ValueError(f"{peer.library} is another model: {key} {peer.work[key]}, ours {mine[key]}")

    def said(work: dict[str, Any]) -> str:
        total, nets, products = work["parameters"] / 1e6, work["coupling_parameters"] / 1e6, work["products"] / 1e9
        return f"{total:.2f} M parameters, {nets:.2f} M of them in coupling nets of {products:.3f} G products an image"

    return {"work of ours": said(mine)} | {f"work of {name}": said(peer.work) for name, peer in peers.items()}


def glow(context: Context, name: str, preset: str, shape: Size, *, at_batch: Target | None) -> None:
    """Measure the rows of one Glow."""
    keys = [f"{name}/{row}" for row in ("best", f"batch{BATCH}", "eager", "convolutions", "engine", "bfloat16")]
    keys += [f"{name}/channels_last"]
    if not context.wants(*keys):
        return
    ours = Ours.build(preset, shape, context.images, context.threads)
    assert ours is not None
    said = f"{preset} {'x'.join(map(str, shape))}"
    limit, limit_said = convolutions_alone(ours.engine, ours.frozen, context.images, context.threads)
    sides = {"ours": ours.score(), "engine": ours.engine_pass(), "eager": ours.eager(BATCH), "convolutions": limit}
    details: dict[str, Any] = {"engine of ours": ours.describe(), "images a turn": context.images}
    with ExitStack() as stack:
        peers, problems = ({}, {})
        if context.wants(f"{name}/best", f"{name}/batch{BATCH}", f"{name}/channels_last"):
            peers, problems = open_peers(stack, preset, shape, context)
            details |= work_of(ours, peers, shape)
        best = {}
        for library, peer in peers.items():
            best[library], details[f"{library}, images/s"] = peer.best_batch("score", context.images)
            sides[f"{library} best"] = peer.turn("score", context.images, best[library])
            sides[f"{library} {BATCH}"] = peer.turn("score", context.images, min(BATCH, context.images))
        lasting = {}
        if peers and context.wants(f"{name}/channels_last"):
            lasting, _ = open_peers(stack, preset, shape, context, channels_last=True)
            for library, peer in lasting.items():
                batch, details[f"{library} in channels_last, images/s"] = peer.best_batch("score", context.images)
                sides[f"{library} channels_last"] = peer.turn("score", context.images, batch)
        half = Ours.build(preset, shape, context.images, context.threads, "bfloat16")
        if half is not None:
            sides["bfloat16"] = half.score()
        seconds = in_turns(sides, context.rounds)
    speeds = {side: context.images / sorted(took)[len(took) // 2] for side, took in seconds.items()}
    details |= {"images/s, median": speeds} | {f"{library} is missing": why for library, why in problems.items()}
    if peers:
        versions = {"versions": environments()["flows"].versions()}
        first = max(peers, key=lambda library: speeds[f"{library} best"])
        context.record(
            f"{name}/best",
            f"{said}: ours / best peer at its best batch ({first}, batch {best[first]})",
            ratio(seconds[f"{first} best"], seconds["ours"]),
            Target(low=1.65),
            **details,
            **versions,
        )
        first = max(peers, key=lambda library: speeds[f"{library} {BATCH}"])
        context.record(
            f"{name}/batch{BATCH}",
            f"{said}: ours / best peer at batch {BATCH} ({first})",
            ratio(seconds[f"{first} {BATCH}"], seconds["ours"]),
            at_batch,
        )
    elif problems:
        context.failed(f"{name}/best", f"{said}: ours / best peer", "; ".join(problems.values()), Target(low=1.65))
    if lasting:
        first = max(lasting, key=lambda library: speeds[f"{library} channels_last"])
        context.record(
            f"{name}/channels_last",
            f"{said}: ours / best peer brought to channels_last by hand, at its best batch ({first})",
            ratio(seconds[f"{first} channels_last"], seconds["ours"]),
        )
    context.record(
        f"{name}/eager",
        f"{said}: ours / our own flow in plain eager PyTorch, float32, batch {BATCH}",
        ratio(seconds["eager"], seconds["ours"]),
    )
    context.record(
        f"{name}/convolutions",
        f"{said}: ours / its convolutions alone ({limit_said})",
        ratio(seconds["convolutions"], seconds["ours"]),
        Target(low=0.9),
        **({} if context.wants(f"{name}/best") else {"images/s, median": speeds}),
    )
    context.record(
        f"{name}/engine",
        f"{said}: the engine's pass alone / its convolutions alone",
        ratio(seconds["convolutions"], seconds["engine"]),
    )
    what = f"{said}: ours in bfloat16 / ours in float32"
    if half is None:
        context.failed(f"{name}/bfloat16", what, "no engine computes in bfloat16 here", Target(low=1.5))
    else:
        context.record(
            f"{name}/bfloat16",
            what,
            ratio(seconds["ours"], seconds["bfloat16"]),
            Target(low=1.5),
            **{"engine in bfloat16": half.describe()},
        )
