"""Sampling: ``python -m benchmarks.speed sample``. Ours by exact and by learned inverse, against normflows."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.speed.context import Context
from benchmarks.speed.conv_rows import PRESET as CONV
from benchmarks.speed.conv_rows import SHAPE as CONV_SHAPE
from benchmarks.speed.conv_rows import plain_twin
from benchmarks.speed.convolutions import convolutions_alone
from benchmarks.speed.glow_rows import PeerGlow, work_of
from benchmarks.speed.ours import Ours
from benchmarks.speed.pairing import Target, in_turns, ratio, timed
from benchmarks.speed.peers import PeerUnavailable, child, environments

TITLE = "Sampling speed, side by side"
SHAPE = (1, 28, 28)
SAMPLES = 100


def measure(context: Context) -> None:
    """Measure all rows."""
    glow(context)
    convolutional(context)


def glow(context: Context) -> None:
    """Measure sampling with the Glow."""
    keys = [f"sample/glow-{row}" for row in ("normflows", "learned", "convolutions")]
    if not context.wants(*keys):
        return
    ours = Ours.build(context.glow, SHAPE, 1, context.threads)
    assert ours is not None
    limit, said = convolutions_alone(ours.engine, ours.frozen, SAMPLES, context.threads)
    sides = {"exact": ours.sample(SAMPLES, "exact"), "learned": ours.sample(SAMPLES, "learned"), "convolutions": limit}
    details: dict[str, Any] = {"engine of ours": ours.describe(), "samples a turn": SAMPLES}
    what = f"{context.glow}: {SAMPLES} samples, exact inverse: ours / normflows at its best batch"
    try:
        with child("flows", "flows.py", context.threads) as process:
            peer = PeerGlow("normflows", process, context.glow, SHAPE, context)
            details |= work_of(ours, {"normflows": peer}, SHAPE)
            batch, details["normflows, samples/s"] = peer.best_batch("sample", SAMPLES)
            sides["normflows"] = peer.turn("sample", SAMPLES, batch)
            seconds = in_turns(sides, context.rounds)
        details["samples/s, median"] = {side: SAMPLES / statistics.median(took) for side, took in seconds.items()}
        context.record(
            keys[0],
            f"{what} ({batch})",
            ratio(seconds["normflows"], seconds["exact"]),
            Target(low=2),
            **details,
            versions=environments()["flows"].versions(),
        )
    except PeerUnavailable as problem:
        context.failed(keys[0], what, str(problem), Target(low=2))
        sides.pop("normflows", None)
        seconds = in_turns(sides, context.rounds)
    context.record(
        keys[1],
        f"{context.glow}: {SAMPLES} samples: ours by learned inverse / by exact inverse",
        ratio(seconds["exact"], seconds["learned"]),
    )
    context.record(
        keys[2],
        f"{context.glow}: {SAMPLES} samples, exact inverse: ours / its convolutions alone ({said})",
        ratio(seconds["convolutions"], seconds["exact"]),
        Target(low=0.9),
    )


def convolutional(context: Context) -> None:
    """Measure sampling with the convolutional flow, against dense inversion at every call."""
    keys = ("sample/conv-authors", "sample/conv-learned")
    if not context.wants(*keys):
        return
    ours = Ours.build(CONV, CONV_SHAPE, 1, context.threads)
    assert ours is not None
    plain = plain_twin(ours)
    shape = ours.frozen.latent_shapes()[-1]

    @torch.inference_mode()
    def authors() -> None:
        plain.sample(torch.randn(SAMPLES, *shape))

    sides = {
        "exact": ours.sample(SAMPLES, "exact"),
        "learned": ours.sample(SAMPLES, "learned"),
        "authors": timed(authors),
    }
    seconds = in_turns(sides, context.rounds)
    medians = {side: 1e3 * statistics.median(took) for side, took in seconds.items()}
    context.record(
        keys[0],
        f"{CONV}: {SAMPLES} samples, exact inverse: ours / the authors' structure, dense inverses at every call",
        ratio(seconds["authors"], seconds["exact"]),
        **{"ms, median": medians, "engine of ours": ours.describe()},
    )
    context.record(
        keys[1],
        f"{CONV}: {SAMPLES} samples: ours by learned inverse / by exact inverse",
        ratio(seconds["exact"], seconds["learned"]),
    )
