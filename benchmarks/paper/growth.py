"""Figure 4: time of a training step of one layer against its dimensions D, with the products alone as physical limit.

Forward and backward, no optimiser, on normal noise, batch 100, float32 (Keller et al. 2021, 5.2). The layers take turns
within a round, so that a change of the machine's speed meets all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.paper.exact_convolutions import WAYS
from benchmarks.paper.plan import finish_on
from benchmarks.speed.pairing import exponent, in_turns, timed
from snf_models.bijections.base import Bijection, SelfNormalizing
from snf_models.bijections.convolution import SelfNormalizingConv
from snf_models.bijections.convolution_matrix import convolve, correlate, flip
from snf_models.bijections.dense import ExactDense, RelativeGradientDense, SelfNormalizingDense
from snf_models.flows.flow import standard_normal_log_prob

DIMENSIONS = (512, 1024, 2048, 4096)
CHANNELS = 8
BATCH = 100
DENSE: dict[str, Callable[[int], Bijection]] = {
    "exact": ExactDense,
    "relative": RelativeGradientDense,
    "SNF": SelfNormalizingDense,
}
CONVOLUTIONS: dict[str, Callable[[int], Bijection]] = {
    **WAYS,
    "SNF": SelfNormalizingConv,
}
LIMIT = "products alone"
"""The six products, or convolutions, of a self normalizing step without anything else."""


def measure(rounds: int, device: str, dimensions: tuple[int, ...] = DIMENSIONS) -> dict[str, Any]:
    """Return milliseconds a step and the exponent in D of each layer, dense and convolutional."""
    found: dict[str, Any] = {"batch": BATCH, "dimensions": list(dimensions)}
    for kind, layers in (("dense", DENSE), ("convolutional", CONVOLUTIONS)):
        sizes: dict[str, dict[str, Any]] = {}
        for size in track(dimensions, description=kind):
            # Small layers take little time and need more rounds for as steady a median.
            sizes[str(size)] = measure_size(kind, layers, size, rounds * max(1, math.ceil(2048 / size)), device)
        names = list(next(iter(sizes.values())))
        found[kind] = {
            "sizes": sizes,
            "exponents": {
                name: exponent(list(dimensions), [sizes[str(size)][name]["median_ms"] for size in dimensions])
                for name in names
            },
        }
    return found


def image_of(kind: str, dimensions: int) -> tuple[int, int, int]:
    """Return the shape of an input of D values.

    >>> image_of("dense", 512), image_of("convolutional", 512), image_of("convolutional", 1024)
    ((512, 1, 1), (8, 8, 8), (8, 16, 8))
    """
    if kind == "dense":
        return dimensions, 1, 1
    places = dimensions // CHANNELS
    height = 2 ** math.ceil(math.log2(places) / 2)
    return CHANNELS, height, places // height


def measure_size(
    kind: str, layers: dict[str, Callable[[int], Bijection]], size: int, rounds: int, device: str
) -> dict[str, Any]:
    shape = image_of(kind, size)
    x = torch.randn(BATCH, *shape, device=device).requires_grad_()
    steps: dict[str, Callable[[], None]] = {}
    for name, make in layers.items():
        layer = make(shape[0]).to(device).train()
        steps[name] = step_of(layer, x)
    steps[LIMIT] = dense_products(x) if kind == "dense" else convolutions(x)
    seconds = in_turns({name: timed(step, finish=finish_on(device)) for name, step in steps.items()}, rounds)
    return {
        name: {
            "median_ms": 1e3 * statistics.median(took),
            "min_ms": 1e3 * min(took),
            "max_ms": 1e3 * max(took),
        }
        for name, took in seconds.items()
    }


def step_of(layer: Bijection, x: Tensor) -> Callable[[], None]:
    """Return work that takes the gradients of a training step, with the reconstruction penalty where there is one."""

    def step() -> None:
        layer.zero_grad()
        z, log_det = layer(x)
        loss = -(standard_normal_log_prob(z) + log_det).mean()
        if isinstance(layer, SelfNormalizing):
            loss = loss + layer.pop_reconstruction_error().mean()
        torch.autograd.backward(loss)

    return step


@torch.no_grad()
def dense_products(x: Tensor) -> Callable[[], None]:
    """Return work that is the six products of a self normalizing dense layer."""
    vectors = x.detach().flatten(1)
    slope, weight = torch.randn_like(vectors), torch.eye(vectors.shape[1], device=x.device)

    def products() -> None:
        y = vectors @ weight.T
        _ = y @ weight.T, slope @ weight, slope @ weight
        _ = slope.T @ vectors, slope.T @ y

    return products


@torch.no_grad()
def convolutions(x: Tensor) -> Callable[[], None]:
    """Return work that is the six convolutions of a self normalizing 3x3 convolution."""
    images = x.detach()
    slope, weight = torch.randn_like(images), torch.randn(x.shape[1], x.shape[1], 3, 3, device=x.device)

    def products() -> None:
        y = convolve(weight, images)
        _ = convolve(weight, y), convolve(flip(weight), slope), convolve(flip(weight), slope)
        _ = correlate(images, slope, (3, 3)), correlate(y, slope, (3, 3))

    return products
