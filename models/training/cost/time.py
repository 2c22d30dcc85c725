"""The work of a training run by its parts, and the time that it takes on the reference machine.

Time is a sum of amounts of work, each by its seconds a unit (:data:`SECONDS`). Those are fitted to short runs on two
cores of an AMD EPYC with AVX-512 and bfloat16 by ``python -m benchmarks.estimates --fit``, which also shows how far
estimates are off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

from models.training.config import TrainingConfig
from models.training.cost.layers import LayerCost
from models.training.cost.plan import Plan

Work = Counter[str]
"""Amounts by unit."""

VALIDATION_BATCH = 100
TILE = 4
SAMPLES = 64
PREVIEWED = 16
NORM_PRODUCTS = 600
"""Products of one image by which validation finds two operator norms of a layer and its learned inverse."""

CALLS = {"actnorm": 1, "channels": 1, "coupling": 3, "convolution": 1, "dense": 1, "spline": 4, "activation": 1}
"""How much of the interpreter's time a layer takes beside its arithmetic, in units of the simplest."""

SECONDS: dict[str, float] = {
    "channels product": 5.3e-11,
    "checkpoint": 0.0078,
    "checkpoint number": 8e-09,
    "convolution product": 8.4e-12,
    "dense product": 2e-12,
    "determinant": 0.0035,
    "determinant band": 8.7e-11,
    "determinant float32": 2.1e-11,
    "determinant float64": 9.6e-12,
    "determinant materialised": 7.2e-11,
    "frozen layer": 4.3e-05,
    "frozen net": 7e-12,
    "frozen product": 8.8e-11,
    "frozen spline": 1.5e-09,
    "layer": 0.00012,
    "net bfloat16": 2.2e-12,
    "net float32": 7e-12,
    "norm multiply-add": 9.3e-11,
    "norm product": 4.2e-05,
    "number": 2.6e-10,
    "parameter": 5e-09,
    "pixel": 3.6e-08,
    "spline": 2.4e-10,
    "start": 2.1,
}
"""Seconds a unit of work on the reference machine."""


def seconds_of(work: Work) -> float:
    """Return the seconds that ``work`` takes on the reference machine."""
    return sum(SECONDS[unit] * amount for unit, amount in work.items())


def start(plan: Plan) -> Work:
    """Return the work before the first step: loading the program, and initialising from images."""
    images = plan.first_images
    return Work({"start": 1}) + _passes(plan, images, images, plan.precision) + _pixels(plan, images)


def step(plan: Plan) -> Work:
    """Return the work of one step."""
    work = Work({"parameter": plan.parameters}) + _pixels(plan, plan.batch)
    refresh_every = plan.config.refresh_inverse_every
    for layer in plan.layers:
        work += _layer(layer, plan.batch, 3, plan.precision, _products(layer, plan.config))
        if layer.linear == "exact" and layer.kind == "dense":
            work["determinant float32"] += layer.dimensions**3
        elif layer.linear == "exact" and layer.kind == "convolution":
            work["determinant materialised"] += layer.dimensions**3
        if refresh_every and layer.learns_inverse:
            side = layer.shape[0] if layer.kind == "channels" else layer.dimensions
            work["determinant float64"] += 4 * side**3 // refresh_every
    return work


def report(plan: Plan) -> Work:
    """Return the work of one report: the log-dets that steps leave out."""
    omitted = (layer for layer in plan.layers if layer.learns_inverse or layer.linear == "relative")
    return _sum(map(_determinant, omitted))


def validation(plan: Plan) -> Work:
    """Return the work of one validation, without its checkpoint and preview."""
    images = min(plan.config.validation_images, plan.splits.statistics)
    batches = math.ceil(images / VALIDATION_BATCH)
    determinants = _times(batches, _sum(map(_determinant, plan.layers)))
    return _passes(plan, images, VALIDATION_BATCH, "float32") + _pixels(plan, images) + _quality(plan) + determinants


def checkpoint(plan: Plan) -> Work:
    """Return the work of one checkpoint: weights, averages and two moments."""
    return Work({"checkpoint": 1, "checkpoint number": 4 * plan.parameters})


def preview(plan: Plan) -> Work:
    """Return the work of one preview."""
    return _freezing(plan) + _frozen(plan, PREVIEWED)


def evaluation(plan: Plan) -> Work:
    """Return the work after the last step: log-dets, freezing twice, scores, samples."""
    images = plan.held_out_images
    once = _sum(map(_determinant, plan.layers)) + _quality(plan) + _pixels(plan, images)
    return once + _times(2, _freezing(plan)) + _frozen(plan, images) + _frozen(plan, SAMPLES)


PARTS: dict[str, Callable[[Plan], Work]] = {
    part.__name__: part for part in (start, step, report, validation, checkpoint, preview, evaluation)
}
"""The parts of a run, each with the work that it is once."""


def _passes(plan: Plan, images: int, batch: int, precision: str) -> Work:
    """Return the work of the forward pass of ``images`` in batches, nothing kept for a gradient."""
    work = _sum(_layer(layer, images, 1, precision, 1) for layer in plan.layers)
    work["layer"] *= math.ceil(images / batch)
    return work


def _layer(layer: LayerCost, images: int, passes: int, precision: str, products: int) -> Work:
    """Return the work of one layer: one pass forward, or ``passes`` = 3 for forward and backward."""
    work = Work({"layer": passes * CALLS[layer.kind]})
    work["spline" if layer.kind == "spline" else "number"] += passes * images * layer.numbers
    if layer.kind == "coupling":
        work[f"net {precision}"] += passes * images * layer.multiply_adds
    elif layer.multiply_adds:
        work[f"{layer.kind} product"] += products * images * layer.multiply_adds
    return work


def _products(layer: LayerCost, config: TrainingConfig) -> int:
    """Return how many products of the size of the forward pass a training step takes, forward and backward."""
    if layer.learns_inverse:
        once = 9 if layer.linear == "self-normalizing-two-layer" else 6
        return once + (6 if config.symmetric_reconstruction else 0)
    return 4 if layer.linear == "relative" else 3


def _determinant(layer: LayerCost) -> Work:
    """Return the work of one exact log-det without gradient, where it is more than that of a few channels."""
    if layer.kind == "convolution" and (layer.linear == "exact" or layer.learns_inverse):
        channels, _, width = layer.shape
        half = channels * (layer.kernel // 2) * (width + 1) + channels - 1
        if 3 * half <= layer.dimensions:
            return Work({"determinant": 1, "determinant band": layer.dimensions * half**2})
    elif layer.kind != "dense":
        return Work()
    return Work({"determinant": 1, "determinant float64": layer.dimensions**3})


def _pixels(plan: Plan, images: int) -> Work:
    """Return the work of the pixel transform; but for the marginal one it takes no time worth counting."""
    return Work({"pixel": images * plan.dimensions} if plan.config.pixel_transform == "marginal" else {})


def _quality(plan: Plan) -> Work:
    """Return the work of measuring every learned inverse."""
    return _sum(
        Work({"norm product": NORM_PRODUCTS, "norm multiply-add": NORM_PRODUCTS * layer.multiply_adds})
        for layer in plan.layers
        if layer.learns_inverse
    )


def _freezing(plan: Plan) -> Work:
    """Return the work of freezing: copies, and inverses of dense matrices."""
    work = Work({"frozen layer": sum(4 * CALLS[layer.kind] for layer in plan.layers)})
    inverses = sum(4 * layer.dimensions**3 for layer in plan.layers if layer.kind == "dense")
    return work + Work({"determinant float64": inverses})


def _frozen(plan: Plan, images: int) -> Work:
    """Return the work of ``images`` through the frozen flow, in either direction."""
    work = Work()
    for layer in plan.layers:
        work["frozen layer"] += math.ceil(images / TILE) * CALLS[layer.kind]
        work["frozen net" if layer.kind == "coupling" else "frozen product"] += images * layer.multiply_adds
        if layer.kind == "spline":
            work["frozen spline"] += images * layer.numbers
    return work


def _sum(works: Iterable[Work]) -> Work:
    total = Work()
    for work in works:
        total += work
    return total


def _times(count: int, work: Work) -> Work:
    return Work({unit: count * amount for unit, amount in work.items()})
