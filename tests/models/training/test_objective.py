"""The self normalizing gradient against automatic differentiation of what it stands for (Keller et al. 2021, eq. 3)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.flows.flow import Flow
from snf_models.training.objective import Loss, self_normalizing_layers
from tests.models.helpers import CountedCalls, dequantised, glow, real_images, training_loss

Gradients = dict[str, Tensor]


def self_normalizing_flow(*, exact_inverses: bool, side: int = 16) -> Flow:
    """A float64 flow in training mode, of two levels with a split prior between them, R = W^-1 or merely near it."""
    flow = glow(side).double()
    if exact_inverses:
        with torch.no_grad():
            for layer in self_normalizing_layers(flow):
                layer.inverse_weight.copy_(torch.linalg.inv(layer.weight))
    return flow.train()


def exact_twin(flow: Flow, side: int = 16) -> Flow:
    """The same map made of exact layers."""
    twin = glow(side, linear="exact").double()
    state = {name: value for name, value in flow.state_dict().items() if not name.endswith("inverse_weight")}
    twin.load_state_dict(state)
    return twin


def batch(flow: Flow, side: int = 16) -> tuple[Tensor, Tensor]:
    """Real digits after the pixel transform, which keep their gradient, and the log-det of that transform."""
    y, log_det = flow.pixels(dequantised(real_images(5, side)))
    return y.detach().requires_grad_(), log_det.detach()


def gradients(flow: Flow, reconstruction_weight: float) -> tuple[Gradients, Tensor, Loss]:
    """Gradients by the objective of training, of all parameters and of the input."""
    y, log_det = batch(flow)
    flow.zero_grad()
    loss = training_loss(flow, y, log_det, reconstruction_weight)
    torch.autograd.backward(loss.value)
    assert y.grad is not None
    found = {}
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found, y.grad.clone(), loss


def negative_log_likelihood(twin: Flow, parameters: dict[str, Tensor], y: Tensor, log_det: Tensor) -> Tensor:
    """-mean log p / D of the exact flow with these parameters."""

    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = twin

        def forward(self, y: Tensor) -> Tensor:
            return -self.flow.forward_pixels(y, log_det).log_likelihood.mean() / y[0].numel()

    loss: Tensor = functional_call(Score(), {f"flow.{name}": value for name, value in parameters.items()}, (y,))
    return loss


def assert_equal(got: Tensor, expected: Tensor, name: str) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10, msg=lambda text: f"{name}: {text}")


def test_with_exact_inverses_w_gets_half_the_exact_gradient_and_all_else_the_whole() -> None:
    flow = self_normalizing_flow(exact_inverses=True)
    twin = exact_twin(flow)
    got, got_input, _ = gradients(flow, 0.0)
    y, log_det = batch(flow)
    parameters = {name: value.detach().requires_grad_() for name, value in twin.named_parameters()}
    loss = negative_log_likelihood(twin, parameters, y, log_det)
    exact = dict(zip([*parameters, "y"], torch.autograd.grad(loss, [*parameters.values(), y]), strict=True))
    layers = {f"{name}.weight" for name, part in flow.named_modules() if isinstance(part, SelfNormalizingConv1x1)}
    assert len(layers) == 4
    assert_equal(got_input, exact["y"], "input")
    for name in parameters:
        assert exact[name].abs().max() > 1e-6, f"{name}: a gradient of zero proves nothing"
        assert_equal(got[name], exact[name] * (0.5 if name in layers else 1.0), name)


def test_with_exact_inverses_r_gets_half_the_exact_gradient_of_the_inverse_flow() -> None:
    """g maps by z = R^-1 x + b in every layer; its log-likelihood is differentiated by R, through the inverse."""
    flow = self_normalizing_flow(exact_inverses=True)
    twin = exact_twin(flow)
    got, _, _ = gradients(flow, 0.0)
    y, log_det = batch(flow)
    fixed = {name: value.detach() for name, value in twin.named_parameters()}
    inverses = {
        name: part.inverse_weight.detach().clone().requires_grad_()
        for name, part in flow.named_modules()
        if isinstance(part, SelfNormalizingConv1x1)
    }
    by_inverses = fixed | {f"{name}.weight": torch.linalg.inv(inverse) for name, inverse in inverses.items()}
    loss = negative_log_likelihood(twin, by_inverses, y, log_det)
    for name, exact in zip(inverses, torch.autograd.grad(loss, list(inverses.values())), strict=True):
        assert exact.abs().max() > 1e-6
        assert_equal(got[f"{name}.inverse_weight"], 0.5 * exact, name)


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (1, 3, 1, 1), (4, 5, 1, 3)], ids=str)
def test_gradient_of_one_layer_away_from_exact_inverses(shape: tuple[int, ...]) -> None:
    """R far from W^-1: every term of eq. 10 and 11 by differentiating a linear function that has it as its slope."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    count, channels, height, width = shape
    layer = SelfNormalizingConv1x1(channels).double().train()
    with torch.no_grad():
        layer.weight.copy_(normal(channels, channels))
        layer.inverse_weight.copy_(normal(channels, channels))
    x, slope, share, error_share = normal(*shape).requires_grad_(), normal(*shape), normal(count), normal(count)
    z, log_det = layer(x)
    error = layer.pop_reconstruction_error()
    torch.autograd.backward((z * slope).sum() + (log_det * share).sum() + (error * error_share).sum())

    weight, inverse = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.inverse_weight))
    data = x.detach()
    y = torch.einsum("oc,nchw->nohw", weight, data)
    back = torch.einsum("oc,nchw->nohw", inverse, y)
    expected_error = (back - data).square().sum((1, 2, 3))
    torch.testing.assert_close(error, expected_error, rtol=1e-12, atol=1e-12)
    x_slope = torch.einsum("oc,nohw->nchw", weight.detach(), slope)
    locations = height * width
    surrogate = (
        0.5 * (y * slope).sum()
        - 0.5 * (torch.einsum("oc,nchw->nohw", inverse, y.detach()) * x_slope).sum()
        + 0.5 * locations * share.sum() * torch.trace(inverse.detach() @ weight)
        - 0.5 * locations * share.sum() * torch.trace(weight.detach() @ inverse)
        + (expected_error * error_share).sum()
    )
    expected = torch.autograd.grad(surrogate, [weight, inverse])
    assert layer.weight.grad is not None
    assert layer.inverse_weight.grad is not None
    assert x.grad is not None
    assert_equal(layer.weight.grad, expected[0], "W")
    assert_equal(layer.inverse_weight.grad, expected[1], "R")
    assert_equal(x.grad, x_slope, "x")


def test_the_penalty_is_that_of_detached_inputs_and_reaches_no_other_parameter() -> None:
    flow = self_normalizing_flow(exact_inverses=False)
    multiplier = 3.0
    without, without_input, _ = gradients(flow, 0.0)
    whole, whole_input, loss = gradients(flow, multiplier)

    layers = {name: part for name, part in flow.named_modules() if isinstance(part, SelfNormalizingConv1x1)}
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _layer, arguments: seen.__setitem__(name, arguments[0].detach())

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    y, log_det = batch(flow)
    flow.eval().forward_pixels(y, log_det)
    for hook in hooks:
        hook.remove()
    errors = {}
    for name, layer in layers.items():
        rebuilt = torch.einsum("ij,jk,nkhw->nihw", layer.inverse_weight, layer.weight, seen[name])
        errors[name] = (rebuilt - seen[name]).square().sum((1, 2, 3)).mean()
    dimensions = y[0].numel()
    penalty = multiplier * torch.stack(list(errors.values())).sum() / dimensions
    named = {f"{n}.{p}": getattr(layer, p) for n, layer in layers.items() for p in ("weight", "inverse_weight")}
    expected = dict(zip(named, torch.autograd.grad(penalty, list(named.values())), strict=True))

    assert penalty > 1e-3
    assert_equal(whole_input, without_input, "input")
    for name, gradient in whole.items():
        if name in expected:
            assert_equal(gradient - without[name], expected[name], name)
        else:
            assert torch.equal(gradient, without[name]), f"{name} gets something of the penalty"
    largest = torch.stack(list(errors.values())).max() / dimensions
    torch.testing.assert_close(loss.reconstruction_error, largest.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(loss.value.detach() + loss.log_likelihood / dimensions, penalty.detach())


def test_exact_flows_minimise_their_negative_log_likelihood() -> None:
    flow = exact_twin(self_normalizing_flow(exact_inverses=True)).train()
    y, log_det = batch(flow)
    loss = training_loss(flow, y, log_det, 100.0)
    expected = -flow.forward_pixels(y, log_det).log_likelihood.mean() / y[0].numel()
    torch.testing.assert_close(loss.value, expected, rtol=0, atol=1e-12)
    assert loss.reconstruction_error == 0


def training_step(flow: Flow) -> CountedCalls:
    flow.double().train()
    y, log_det = batch(flow)
    optimizer = torch.optim.Adam(flow.parameters(), fused=True)
    calls = CountedCalls()
    with calls:
        loss = training_loss(flow, y.detach(), log_det, 100.0)
        torch.autograd.backward(loss.value)
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
    return calls


def test_a_self_normalizing_step_factorises_nothing() -> None:
    calls = training_step(glow(16))
    assert calls.all > 200
    assert [name for name in calls.cubic if "vector_norm" not in name] == []


def test_an_exact_step_does() -> None:
    names = training_step(glow(16, linear="exact")).cubic
    assert sum("slogdet" in name for name in names) >= 4
    assert any("solve" in name or "lu" in name or "inv" in name for name in names), "the backward pass is counted too"
