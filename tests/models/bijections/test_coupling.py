"""Coupling networks by matrix products."""

import pytest
import torch
from torch import Tensor

from snf_models.bijections.conformance import randomise
from snf_models.bijections.coupling import PRODUCTS_FROM_WIDTH, CouplingNet

SIZE = 6, 4


def outputs_and_gradients(net: CouplingNet, channels: int) -> list[Tensor]:
    generator, weights = torch.Generator().manual_seed(0), net.first.weight.dtype
    x, grad = (torch.randn(5, count, *SIZE, generator=generator).to(weights) for count in (channels, 6))
    output = net(x.requires_grad_())
    assert output.dtype == weights
    return [output.detach(), *torch.autograd.grad(output, [x, *net.parameters()], grad)]


def errors(computed: list[Tensor], exact: list[Tensor]) -> list[float]:
    assert [one.shape for one in computed] == [one.shape for one in exact]
    return [float((one - right).norm() / right.norm()) for one, right in zip(computed, exact, strict=True)]


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("places", [None, SIZE], ids=["everywhere", "by-place"])
def test_outputs_and_gradients_are_those_of_the_convolutions(places: tuple[int, int] | None, channels: int) -> None:
    torch.manual_seed(0)
    net = CouplingNet(channels, 6, PRODUCTS_FROM_WIDTH, places).double()
    randomise(net, 0.2)
    exact = outputs_and_gradients(net.eval(), channels)
    net.autocast = torch.float64
    assert max(errors(outputs_and_gradients(net.train(), channels), exact)) < 1e-13
    net.float().autocast = torch.bfloat16
    rounded = errors(outputs_and_gradients(net.eval(), channels), exact)
    for mine, theirs in zip(errors(outputs_and_gradients(net.train(), channels), exact), rounded, strict=True):
        assert mine < 3 * theirs + 1e-3, "both round to eight bits, in another order"


def test_products_take_over_in_bfloat16_on_a_cpu_for_wide_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def products(net: CouplingNet, x: Tensor) -> Tensor:
        seen.append(len(net.first.weight))
        return x.new_zeros(len(x), 4, 3, 3)

    monkeypatch.setattr(CouplingNet, "_products", products)
    for width in (PRODUCTS_FROM_WIDTH, PRODUCTS_FROM_WIDTH - 1):
        for autocast in (None, torch.bfloat16):
            for training in (True, False):
                net = CouplingNet(2, 4, width).train(training)
                net.autocast = autocast
                net(torch.ones(2, 2, 3, 3))
    assert seen == [PRODUCTS_FROM_WIDTH]
