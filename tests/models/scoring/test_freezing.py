"""Freezing: float32 weights are widened before they are multiplied; layers without an inverse are refused by name."""

import copy
from collections.abc import Callable

import pytest
import torch

from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ExactConv1x1, LUConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.bijections.convolution import ExactConv
from snf_models.bijections.dense import ExactDense
from snf_models.bijections.pixels import AffinePixels
from snf_models.bijections.spectral import ExponentialConv
from snf_models.errors import SingularLayer
from snf_models.flows.flow import Flow, Level
from snf_models.scoring.frozen import constant_log_dets, freeze, require_invertible

SHAPE = (4, 6, 6)


def flow_of(layers: list[Bijection], scale: float = 0.1) -> Flow:
    flow = Flow(AffinePixels(), [Level(layers, squeeze=False)]).eval()
    randomise(flow, scale)
    return flow


def test_sixteen_lu_steps_are_as_exact_as_float64() -> None:
    """One folded map against the factors multiplied in float64; float32 products are off by 1e-7."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = flow_of([LUConv1x1(16) for _ in range(16)])
    (folded,) = freeze(flow, (16, 4, 4)).levels[0].steps
    matrix = torch.eye(16, dtype=torch.float64)
    for layer in copy.deepcopy(flow).double().level_list()[0].bijections():
        factors, one = layer.factors, torch.eye(16, dtype=torch.float64)
        lower, upper = factors.tril(-1) + one, factors.triu(1) + torch.diag(layer.sign * factors.diagonal().exp())
        matrix = (lower @ upper)[layer.permutation] @ matrix
    torch.testing.assert_close(folded.forward_map[0], matrix.detach(), rtol=0, atol=1e-14)


def test_the_bound_of_an_exponential_is_computed_in_float64() -> None:
    """The frozen map and its log-det are those of the float64 layer; a bound in float32 is off by 1e-8."""
    flow = flow_of([ExponentialConv(SHAPE)], scale=0.5)
    (layer,) = copy.deepcopy(flow).double().level_list()[0].bijections()
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        expected, log_det = layer(x)
    (step,) = freeze(flow, SHAPE).levels[0].steps
    torch.testing.assert_close(step.forward(x)[0], expected, rtol=0, atol=1e-13)
    (stored,) = constant_log_dets(flow, SHAPE).values()
    assert stored == pytest.approx(float(log_det[0]), abs=1e-12)


LAYERS: dict[str, Callable[[], Bijection]] = {
    "1x1": lambda: ExactConv1x1(4),
    "dense": lambda: ExactDense(144),
    "convolution": lambda: ExactConv(4),
}


def near_singular(layer: Bijection, factor: float) -> None:
    """Make the weights of one output those of another one, up to a difference of the order of ``factor``."""
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight[1] = weight[0] * (1 + factor)
        weight[1, 0] += factor


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_without_an_inverse_is_refused_by_name(kind: str) -> None:
    """One that float64 inverts badly; a flow that is merely ill-conditioned in float32 is not refused."""
    for factor, refused in ((1e-3, False), (1e-13, True), (0.0, True)):
        layers = [LAYERS[kind](), LAYERS[kind]()]
        flow = flow_of(layers, scale=0.01).double()
        near_singular(layers[1], factor)
        if refused:
            with pytest.raises(SingularLayer, match=r"levels\.0\.steps\.1"):
                require_invertible(flow, SHAPE)
        else:
            require_invertible(flow, SHAPE)


def test_an_infinite_log_det_is_refused_by_name() -> None:
    layers: list[Bijection] = [ExactConv1x1(4), ExactConv1x1(4)]
    flow = flow_of(layers)
    with torch.no_grad():
        layers[1].get_parameter("weight").zero_()
    with pytest.raises(SingularLayer, match=r"levels\.0\.steps\.1 has no inverse: its log-determinant is -inf"):
        constant_log_dets(flow, SHAPE)
