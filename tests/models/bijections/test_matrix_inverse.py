"""Learned inverses that are made exact on single directions, against minimum-norm solutions by NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.dense import SelfNormalizingDense
from snf_models.bijections.matrices import MatrixInverse

D = 40


def off_inverse(make: Callable[[int], MatrixInverse], condition: float = 30.0) -> MatrixInverse:
    """A layer in float64 of the given condition, whose learned inverse makes errors of a tenth: W R = I + noise."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(D, D, generator=generator, dtype=torch.float64)

    layer = make(D).double()
    left, right = (torch.linalg.qr(noise()).Q for _ in range(2))
    with torch.no_grad():
        layer.weight.copy_(left @ torch.diag(torch.logspace(0, -np.log10(condition), D, dtype=torch.float64)) @ right)
        layer.inverse_weight.copy_(torch.linalg.solve(layer.weight, torch.eye(D).double() + 0.1 * D**-0.5 * noise()))
    return layer


def white(count: int, seed: int = 1) -> Tensor:
    return torch.randn(D, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("make", [SelfNormalizingDense, SelfNormalizingConv1x1])
@pytest.mark.parametrize("count", [1, 7, D])
def test_the_corrected_inverse_is_the_nearest_that_is_exact_on_the_directions(
    make: Callable[[int], MatrixInverse], count: int
) -> None:
    layer, directions = off_inverse(make), white(count)
    weight, before = (each.detach().numpy().copy() for each in (layer.weight, layer.inverse_weight))
    layer.correct_inverse(directions)
    after = layer.inverse_weight.detach().numpy()
    images = weight @ before @ directions.numpy()
    missing = np.linalg.solve(weight, images) - before @ images
    # X Y = missing by the least X: of Y^T X^T = missing^T, lstsq finds the solution of least norm.
    least = np.linalg.lstsq(images.T, missing.T, rcond=None)[0].T
    np.testing.assert_allclose(after - before, least, rtol=0, atol=1e-10 * np.abs(before).max())
    if count == D:
        np.testing.assert_allclose(after, np.linalg.inv(weight), rtol=0, atol=1e-9 * np.abs(after).max())


@pytest.mark.parametrize("condition", [30.0, 1e4])
def test_errors_shrink_by_the_share_of_the_directions_whatever_the_condition(condition: float) -> None:
    layer = off_inverse(SelfNormalizingDense, condition)
    inverse = torch.linalg.inv(layer.weight.detach())
    start = (layer.inverse_weight.detach() - inverse).square().sum()
    for seed in range(40):
        layer.correct_inverse(white(4, seed))
    left = (layer.inverse_weight.detach() - inverse).square().sum() / start
    assert 0.2 < float(left) / 0.9**40 < 5
