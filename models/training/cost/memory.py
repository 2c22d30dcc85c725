"""The peak of resident memory of a training process, counted from what is held at once in its fullest phase.

The constants are those that make ``python -m benchmarks.estimates`` agree with what processes took.
"""

from __future__ import annotations

from models.training.cost.layers import LayerCost
from models.training.cost.plan import Plan

PROGRAM_BYTES = 400_000_000
"""Of Python and its libraries once everything is loaded."""
PIXEL_COPIES = {"marginal": 20, "logit": 8, "affine": 4}
"""Arrays in float64 of the size of the batch that a pixel transform makes on its way."""
KEPT_SHARE = 1.15
"""Memory taken for what is kept, over its size: allocators leave gaps, and gradients come and go."""
BFLOAT16_BYTES = 3.0
"""Of a number in a hidden layer: two, and what conversions from and to float32 make of it."""
DETERMINANT_COPIES = 4
"""Matrices D x D that a log-det keeps for its gradient."""


def peak_bytes(plan: Plan) -> int:
    """Return the peak of resident memory: loading the images, or the fullest phase of training beside them."""
    weights, frozen = 4 * plan.parameters, sum(map(_frozen_bytes, plan.layers))
    first = plan.first_images
    initialising = 2 * weights + _pixel_bytes(plan, first) + first * max(map(_passing_bytes, plan.layers))
    # Weights, averages, gradients and two moments.
    stepping = 5 * weights + _pixel_bytes(plan, plan.batch) + sum(_kept_bytes(plan, layer) for layer in plan.layers)
    # The largest file of a checkpoint, made up in memory, holds the moments; a preview freezes a copy of the averages.
    validating = 5 * weights + max(2 * weights, weights + frozen)
    # The samples of the finished model come from a flow frozen once more.
    evaluating = weights + 2 * frozen
    data = (plan.splits.train + plan.held_out_images) * plan.dimensions
    # Loading holds the images as they are read, by parts, and while they are hashed.
    return PROGRAM_BYTES + max(3 * data, data + max(initialising, stepping, validating, evaluating))


def _pixel_bytes(plan: Plan, images: int) -> int:
    return 8 * images * plan.dimensions * PIXEL_COPIES[plan.config.pixel_transform]


def _passing_bytes(layer: LayerCost) -> int:
    """Return what one image holds in a layer that keeps nothing."""
    return 4 * max(layer.hidden, 8 * layer.dimensions)


def _kept_bytes(plan: Plan, layer: LayerCost) -> int:
    """Return what a layer keeps of one batch for the gradient, or makes on its way."""
    hidden = {"float32": 4.0, "bfloat16": BFLOAT16_BYTES}[plan.precision] * layer.hidden
    kept = int(KEPT_SHARE * plan.batch * (4 * (layer.numbers - layer.hidden) + hidden))
    if layer.linear == "exact" and layer.kind in {"dense", "convolution"}:
        kept += DETERMINANT_COPIES * (4 if layer.kind == "dense" else 8) * layer.dimensions**2
    return kept


def _frozen_bytes(layer: LayerCost) -> int:
    """Return what a layer holds frozen: dense matrices in float64 with their inverses, exact and learned."""
    if layer.kind == "dense":
        return 8 * layer.dimensions**2 * (3 if layer.learns_inverse else 2)
    return 8 * layer.parameters
