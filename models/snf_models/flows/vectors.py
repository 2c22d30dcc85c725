"""Normalizing flows for the density of vectors instead of images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from snf_models.bijections.identity import Identity
from snf_models.flows.distribution import FlowDistribution
from snf_models.flows.flow import Flow, Level
from snf_models.flows.layers.elementwise import SplineSpec
from snf_models.flows.layers.linear import SelfNormalizingOneByOneSpec
from snf_models.flows.layers.spec import LayerSpec
from snf_models.flows.level_specs import LevelSpec, RepeatSpec, shaped

STEP = (SelfNormalizingOneByOneSpec(), SplineSpec(bins=16, bound=5.0))
"""A matrix that learns its inverse, then a spline for each value: a few of them fit any density of few dimensions.

Values have a deviation of about 1, so the bins are narrower than those for images.
"""


def vector_flow(
    dimensions: int,
    step: Sequence[LayerSpec] = STEP,
    *,
    repeat: int = 8,
    base: nn.Module | None = None,
    context: int = 0,
) -> FlowDistribution:
    """Build a new, untrained flow that models the probability density of vectors.

    Returns a distribution of vectors ``(D,)``. The initial weights of the flow are random.

    Its layers treat a vector as an image ``(D, 1, 1)``. So a 1x1 convolution is a dense matrix that starts as a random
    rotation, ``self-normalizing-dense`` one that starts as the identity, and a coupling splits the D values into
    halves. The values should have a deviation of about 1.

    Args:
        dimensions: The number of values D of a vector.
        step: Descriptions of the layers of a step, of any registered type.
        repeat: The number of steps, each with weights of its own.
        base: A learned base distribution of shape ``(D,)``, such as
            :class:`~snf_models.flows.gaussian_base.GaussianBase`; None for the standard normal distribution.
        context: Length K of the context c of a conditional flow p(x | c); 0 for a flow without one. All layers of types
            that can take a context get it: ``affine-coupling``, ``spline-coupling``, ``masked-autoregressive``.

    Raises:
        ValueError: A layer cannot take vectors of this length, no layer can take a context, or the flow is too large.
    """
    level = LevelSpec(squeeze=False, steps=(RepeatSpec(repeat=repeat, steps=tuple(step)),))
    [checked] = shaped([level], (dimensions, 1, 1))
    layers = [layer.build_with(checked.shape, context) for layer in checked.layers]
    flow = Flow(Identity(), [Level(layers, squeeze=False)])
    if flow.context != context:
        raise ValueError(f"expected a layer that can take a context, such as affine-coupling, for {context=}, got none")
    return FlowDistribution(flow, (dimensions,), base)
