"""Second derivatives, which hand-written backward passes do not have, are refused and never incomplete."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snf_models.bijections.base import SelfNormalizing, call
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.convolution import ExactConv, SelfNormalizingConv, TwoLayerInverseConv
from snf_models.bijections.coupling import CouplingProducts
from snf_models.bijections.dense import RelativeGradientDense, SelfNormalizingDense
from snf_models.bijections.local_affine import SelfNormalizingLocalAffine
from snf_models.flows.flow import apply_layers
from tests.models.bijections.convolutions import normal

SHAPE = (2, 4, 3)


def training_loss(layer: torch.nn.Module, x: Tensor) -> Tensor:
    z, log_det = layer(x)
    loss = z.square().sum() - log_det.sum()
    return loss + layer.pop_reconstruction_error().sum() if isinstance(layer, SelfNormalizing) else loss


def of_layer(make: Callable[[], torch.nn.Module]) -> Callable[[Tensor], Tensor]:
    return lambda x: training_loss(make().double().train(), x)


def of_products(x: Tensor) -> Tensor:
    shapes = [(4, 2, 3, 3), (4,), (4, 4, 3), (4, 4, 1, 1), (4,), (2, 4, 3, 3), (2,)]
    weights = [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    output: Tensor = call(CouplingProducts, x, torch.float64, *weights)
    return output.sum()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "log-det": lambda x: ExactConv(2).double().log_det(x).sum(),
    "solution": lambda x: ExactConv(2).double().inverse(x)[0].square().sum(),
    "convolution": of_layer(lambda: SelfNormalizingConv(2)),
    "two layers": of_layer(lambda: TwoLayerInverseConv(2)),
    "1x1": of_layer(lambda: SelfNormalizingConv1x1(2)),
    "dense": of_layer(lambda: SelfNormalizingDense(24)),
    "relative": of_layer(lambda: RelativeGradientDense(24)),
    "local": of_layer(lambda: SelfNormalizingLocalAffine(SHAPE, 2)),
    "coupling": of_products,
    "recomputed": lambda x: apply_layers([SelfNormalizingConv1x1(2).double()], x, recompute=True)[0].square().sum(),
}


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_second_derivatives_are_refused(loss: Callable[[Tensor], Tensor]) -> None:
    x = normal(3, *SHAPE, seed=0).requires_grad_()
    torch.autograd.backward(loss(x))
    with pytest.raises(RuntimeError, match=r"create_graph=True in \w+\.backward"):
        torch.autograd.backward(loss(x), create_graph=True)
