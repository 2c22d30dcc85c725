"""The self normalizing gradient against automatic differentiation of what it stands for (Keller et al. 2021, eq. 3)."""

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
    assert len(calls.names) > 200
    assert [name for name in calls.cubic if "vector_norm" not in name] == []


def test_an_exact_step_does() -> None:
    names = training_step(glow(16, linear="exact")).cubic
    assert sum("slogdet" in name for name in names) >= 4
    assert any("solve" in name or "lu" in name or "inv" in name for name in names), "the backward pass is counted too"
