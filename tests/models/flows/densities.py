"""Random flows as distributions, and points to evaluate them at."""

import numpy as np
import torch
from torch import Tensor, nn

from snf_models.bijections.conformance import randomise
from snf_models.bijections.dense import ExactDense
from snf_models.flows.architecture import PixelTransform
from snf_models.flows.distribution import STEP, FlowDistribution, vector_flow
from snf_models.flows.layers import (
    AffineCouplingSpec,
    ExactDenseSpec,
    LayerSpec,
    LUOneByOneSpec,
    RelativeDenseSpec,
    SelfNormalizingDenseSpec,
    SmoothLeakyReLUSpec,
    SplineSpec,
)
from tests.models.helpers import dequantised, glow, real_images

PIXELS: tuple[PixelTransform, ...] = ("affine", "logit", "marginal")
STEPS: dict[str, tuple[LayerSpec, ...]] = {
    "default": STEP,
    "dense": (SelfNormalizingDenseSpec(), SmoothLeakyReLUSpec()),
    "relative": (RelativeDenseSpec(), SplineSpec(bins=3, bound=4.0)),
    "coupling": (LUOneByOneSpec(), AffineCouplingSpec(width=8)),
}


def vectors(name: str, dimensions: int = 3, base: nn.Module | None = None) -> FlowDistribution:
    """A random flow over vectors in float64 and in training mode, nothing of which is the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        density = vector_flow(dimensions, STEPS[name], repeat=2, base=base).double()
    randomise(density, 0.25)
    return density


def images(pixels: PixelTransform = "logit", side: int = 8) -> FlowDistribution:
    """A random Glow in float64 and in training mode."""
    flow = glow(side, pixels=pixels)
    return FlowDistribution(flow, (1, side, side)).double().train()


def points(density: FlowDistribution, count: int = 4) -> Tensor:
    """Vectors of white noise, or real digits with noise."""
    if len(density.event_shape) == 1:
        noise = np.random.default_rng(0).standard_normal((count, *density.event_shape))
        return torch.from_numpy(1.5 * noise)
    return dequantised(real_images(count, density.event_shape[1]))


def linear(base: nn.Module | None = None) -> tuple[FlowDistribution, ExactDense]:
    density = vector_flow(3, (ExactDenseSpec(),), repeat=1, base=base).double()
    randomise(density, 0.3, seed=4)
    [layer] = density.flow.level_list()[0].bijections()
    return density, layer
