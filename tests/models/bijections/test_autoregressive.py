"""The masked autoregressive layer."""

import pytest
import torch
from torch import Tensor

from snf_models.bijections.autoregressive import MaskedAutoregressive
from snf_models.bijections.conformance import randomise


def random_layer(
    dimensions: int, width: int, reverse: bool = False, context: int = 0, seed: int = 0
) -> MaskedAutoregressive:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = MaskedAutoregressive(dimensions, width, reverse, context=context).double()
    randomise(layer, 0.5, seed)
    return layer


def jacobian(layer: MaskedAutoregressive, *context: Tensor) -> Tensor:
    """The sizes of dz_i/dx_j and of dlog s_i/dx_j, averaged over points: a ReLU is off at some of them."""
    x = torch.randn(20, layer.dimensions, generator=torch.Generator().manual_seed(1)).double()

    def both(point: Tensor) -> Tensor:
        z, log_scale = layer.map_with_slope(point.view(1, -1, 1, 1), *context)
        return torch.stack([z.flatten(), log_scale.flatten()])

    return torch.stack([torch.autograd.functional.jacobian(both, point).abs() for point in x]).mean(0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("context", [0, 2])
def test_a_value_depends_on_itself_and_on_all_values_before_it_alone(reverse: bool, context: int) -> None:
    given = [torch.tensor([[0.3, -1.0]]).double()][: bool(context)]
    of_z, of_scale = jacobian(random_layer(6, 24, reverse, context), *given)
    if reverse:
        of_z, of_scale = of_z.flip(0, 1), of_scale.flip(0, 1)
    before = torch.ones(6, 6).tril(-1).bool()
    assert (of_z.triu(1) == 0).all()
    assert (of_scale.triu() == 0).all()
    assert (of_z.diagonal() > 0).all()
    assert (of_z[before] > 0).all()
    assert (of_scale[before] > 0).all()


@pytest.mark.parametrize("width", [2, 3, 5])
def test_a_narrow_network_leaves_no_value_and_no_context_out(width: int) -> None:
    layer = random_layer(8, width, context=1)
    of_z, _ = jacobian(layer, torch.ones(1, 1).double())
    assert (of_z.triu(1) == 0).all()
    assert (of_z[-1] > 0).all(), "the last value depends on all"
    contexts = torch.linspace(-3, 3, 7).double()[:, None]
    firsts = [
        random_layer(8, width, context=1, seed=seed)(torch.zeros(7, 8, 1, 1).double(), contexts)[0][:, 0, 0, 0]
        for seed in range(5)
    ]
    # One of the layers at least: a hidden unit of a random layer may be off everywhere.
    assert max(first.unique().numel() for first in firsts) > 1, "the first value depends on the context"


def test_a_single_value_is_scaled_and_shifted_by_the_context_alone() -> None:
    layer = random_layer(1, 5, context=2)
    x, context = torch.tensor([-1.0, 0.0, 2.0]).double(), torch.tensor([[0.5, -0.25]]).double()
    z, log_det = layer(x.view(3, 1, 1, 1), context.expand(3, 2))
    # The network written out with plain products: no mask is in the way of a context.
    hidden = (layer.first.bias + layer.of_context.weight @ context[0]).relu()
    hidden = (layer.middle.weight @ hidden + layer.middle.bias).relu()
    logit, shift = layer.last.weight @ hidden + layer.last.bias
    log_scale = 2 * torch.tanh(logit / 2)
    torch.testing.assert_close(z.flatten(), x * log_scale.exp() + shift)
    torch.testing.assert_close(log_det, log_scale.expand(3))


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(4, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    z, log_det = MaskedAutoregressive(6, 8, context=1)(x, torch.ones(4, 1))
    assert torch.equal(z, x)
    assert (log_det == 0).all()


def test_scales_are_bounded() -> None:
    layer = random_layer(3, 8)
    x = 1e6 * torch.randn(50, 3, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        z, log_scale = layer.map_with_slope(x)
        back = layer.inverse(z)[0]
    assert float(log_scale.abs().max()) == pytest.approx(2, abs=1e-6)
    assert back.isfinite().all()


@pytest.mark.parametrize(("dimensions", "width", "context"), [(0, 3, 0), (3, 0, 0), (3, 3, -1)])
def test_it_refuses(dimensions: int, width: int, context: int) -> None:
    with pytest.raises(ValueError, match=f"expected .*, got .*{min(dimensions, width, context)}"):
        MaskedAutoregressive(dimensions, width, context=context)
