"""Growth: ``python -m benchmarks.speed growth``. Time and memory in images, sides and steps, as powers of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.speed.context import Context
from benchmarks.speed.memory import forget_peak, peak_mib
from benchmarks.speed.ours import DIGEST, flow_of, open_engine, random_images
from benchmarks.speed.pairing import Ratio, Target, Turn, exponent, in_turns, ratio, timed
from snf_models.flows.architecture import GlowArchitecture
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.engines.flow_engine import FlowEngine
from snf_models.scoring.frozen import FrozenFlow, freeze
from snf_runtime.scoring.pixel_density import PixelDensity

TITLE = "How time and memory grow"
PRESET, LARGER = "snf-glow-tiny", "snf-glow-small"
"""For many images, and for sides and steps, where what a call costs whatever its size should not count."""
SHAPE = (1, 28, 28)
COUNTS = (100, 1_000, 10_000, 100_000)
QUICK_COUNTS = (100, 300, 1_000, 3_000)
SIDES = (16, 32, 64, 128)
STEPS = (4, 8, 16, 32)
IMAGES = 16
MAX_ROUNDS = 3
"""Of the row that scores a hundred thousand images a round."""


def measure(context: Context) -> None:
    """Measure all rows."""
    in_images(context)
    in_sides(context)
    in_steps(context)


def opened(architecture: GlowArchitecture, threads: int) -> tuple[FlowEngine, FrozenFlow]:
    """Return an engine with a flow of random weights."""
    frozen = freeze(flow_of(architecture), architecture.image_shape)
    engine = open_engine(frozen, threads)
    assert engine is not None
    return engine, frozen


def scoring(engine: FlowEngine, frozen: FrozenFlow, count: int) -> Callable[[], None]:
    """Return work that scores ``count`` images, which take no memory of their own, and keeps their sum alone."""
    some = random_images(1, frozen.image_shape)
    images = np.broadcast_to(some, (count, *frozen.image_shape))

    def work() -> None:
        total = 0.0
        for _, found in PixelDensity(engine, frozen, DIGEST).passes(images):
            total += float(found.terms().sum())

    return work


def architecture_of(preset: str, shape: tuple[int, int, int]) -> GlowArchitecture:
    """Return the preset's architecture for such images."""
    found = find_preset(preset).architecture(shape, "logit")
    assert isinstance(found, GlowArchitecture)
    return found


def exponents(sizes: Sequence[int], seconds: dict[str, list[float]]) -> Ratio:
    """Return the exponent of time in size, median and spread over the rounds."""
    found = [exponent(sizes, round_) for round_ in zip(*seconds.values(), strict=True)]
    return Ratio(statistics.median(found), min(found), max(found), len(found))


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each side."""
    return {size: 1e3 * statistics.median(took) for size, took in seconds.items()}


def in_images(context: Context) -> None:
    """Measure time and peak memory in N."""
    if not context.wants("growth/images", "growth/images-memory"):
        return
    counts = QUICK_COUNTS if context.quick else COUNTS
    engine, frozen = opened(architecture_of(PRESET, SHAPE), context.threads)
    peaks: dict[int, list[float]] = {count: [] for count in counts}

    def turn(count: int) -> Turn:
        work = timed(scoring(engine, frozen, count))

        def one() -> float:
            forget_peak("self")
            took = work()
            peaks[count].append(peak_mib("self"))
            return took

        return one

    scoring(engine, frozen, IMAGES)()
    seconds = in_turns({str(count): turn(count) for count in counts}, min(context.rounds, MAX_ROUNDS), warm_up=0)
    said = f"{PRESET} {'x'.join(map(str, SHAPE))}, {counts[0]} to {counts[-1]} images"
    context.record(
        "growth/images",
        f"exponent of time in the number of images, {said}",
        exponents(counts, seconds),
        Target(0.95, 1.05),
        **{"ms, median": milliseconds(seconds), "engine": f"{engine.name}, {engine.precision}"},
    )
    context.record(
        "growth/images-memory",
        f"peak resident memory for the most images / for the fewest, {said}, images and scores not kept",
        ratio(peaks[counts[-1]], peaks[counts[0]]),
        Target(high=1.05),
        **{"peak MiB, median": {str(count): statistics.median(found) for count, found in peaks.items()}},
    )


def in_sides(context: Context) -> None:
    """Measure time in the side of an image; levels follow the side."""
    if not context.wants("growth/side"):
        return
    preset, sides = PRESET if context.quick else LARGER, {}
    for side in SIDES:
        engine, frozen = opened(architecture_of(preset, (1, side, side)), context.threads)
        sides[str(side)] = timed(scoring(engine, frozen, IMAGES))
    seconds = in_turns(sides, context.rounds)
    context.record(
        "growth/side",
        f"exponent of time in the image's side, {preset}, {IMAGES} images of {SIDES[0]} to {SIDES[-1]} pixels a side",
        exponents(SIDES, seconds),
        **{"ms, median": milliseconds(seconds), "note": "2 is linear in pixels; a larger image has more levels"},
    )


def in_steps(context: Context) -> None:
    """Measure time in the steps a level."""
    if not context.wants("growth/steps"):
        return
    preset, sides = PRESET if context.quick else LARGER, {}
    for steps in STEPS:
        architecture = architecture_of(preset, SHAPE).model_copy(update={"steps": steps})
        engine, frozen = opened(architecture, context.threads)
        sides[str(steps)] = timed(scoring(engine, frozen, IMAGES))
    seconds = in_turns(sides, context.rounds)
    context.record(
        "growth/steps",
        f"exponent of time in the steps a level, otherwise {preset}, {IMAGES} images, {STEPS[0]} to {STEPS[-1]} steps",
        exponents(STEPS, seconds),
        **{"ms, median": milliseconds(seconds)},
    )
