"""Sampling: ``python -m benchmarks.speed sample``. Ours by the exact inverse, against normflows."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.speed.ours import Ours
from benchmarks.speed.pairing import Target, in_turns, ratio
from benchmarks.speed.peers import FLOWS, PeerUnavailable, flows_child
from benchmarks.speed.results import Context
from benchmarks.speed.score import PeerGlow, work_of

TITLE = "Sampling speed, side by side"
SHAPE = (1, 28, 28)
SAMPLES = 100


def measure(context: Context) -> None:
    key, what = (
        "sample/glow-normflows",
        f"{context.glow}: {SAMPLES} samples, exact inverse: ours / normflows at its best batch",
    )
    if not context.wants(key):
        return
    ours = Ours.build(context.glow, SHAPE, 1, context.threads)
    assert ours is not None
    details: dict[str, Any] = {"engine of ours": ours.describe(), "samples a turn": SAMPLES}
    try:
        with flows_child(context.threads) as process:
            peer = PeerGlow("normflows", process, context.glow, SHAPE, context)
            details |= work_of(ours, {"normflows": peer}, SHAPE)
            batch, details["normflows, samples/s"] = peer.best_batch("sample", SAMPLES)
            sides = {"exact": ours.sample(SAMPLES, "exact"), "normflows": peer.turn("sample", SAMPLES, batch)}
            seconds = in_turns(sides, context.rounds)
    except PeerUnavailable as problem:
        context.record(key, what, None, Target(low=2), problem=str(problem))
        return
    details["samples/s, median"] = {side: SAMPLES / statistics.median(took) for side, took in seconds.items()}
    details["versions"] = FLOWS.versions()
    context.record(key, f"{what} ({batch})", ratio(seconds["normflows"], seconds["exact"]), Target(low=2), **details)
