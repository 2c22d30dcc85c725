"""The kernel nearest to the inverse of a convolution, against matrices filled by loops and inverted whole."""

from __future__ import annotations

import math

import pytest
import torch

from snf_models.bijections import convolution
from snf_models.bijections import convolution_matrix as module
from snf_models.bijections.convolution import ExactConv
from snf_models.bijections.convolution_matrix import (
    FactorisedConvolution,
    LinAlgError,
    Size,
    flip,
    materialise,
    multiplicity,
    nearest_inverse,
)
from tests.models.bijections.convolutions import matrix, near_identity, placements

KERNELS = pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (1, 3), (3, 3), (5, 3)], ids=str)
IMAGES = pytest.mark.parametrize("image", [(5, 7), (8, 8), (2, 3), (1, 4)], ids=str)


def nearest_by_least_squares(weight: torch.Tensor, image: Size) -> torch.Tensor:
    """The kernel whose matrix is nearest to the inverse of a kernel's matrix; taps that no pixel reads are 0."""
    channels, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
    basis = placements(channels, kernel, image).flatten(0, 3).flatten(1)
    inverse = torch.linalg.inv(matrix(weight, image))
    read = basis.abs().sum(1) > 0
    solution = torch.linalg.lstsq(basis[read].T, inverse.flatten()).solution
    return torch.zeros(len(basis), dtype=torch.float64).masked_scatter(read, solution).view(weight.shape)


@pytest.fixture
def whole_inverses(monkeypatch: pytest.MonkeyPatch) -> list[Size]:
    """The sizes of the images for which all of an inverse is computed."""
    computed: list[Size] = []

    def factorised(weight: torch.Tensor, image: Size) -> FactorisedConvolution:
        computed.append(image)
        return FactorisedConvolution(weight, image)

    monkeypatch.setattr(module, "FactorisedConvolution", factorised)
    return computed


@KERNELS
@IMAGES
@pytest.mark.parametrize("channels", [1, 3])
def test_the_kernel_is_nearest_and_the_log_det_is_that_of_the_matrix(
    whole_inverses: list[Size], kernel: Size, image: Size, channels: int
) -> None:
    weight = near_identity(channels, kernel, 0.1)
    log_det, inverse = nearest_inverse(weight, image)
    torch.testing.assert_close(inverse, nearest_by_least_squares(weight, image), rtol=0, atol=1e-12)
    expected = torch.linalg.slogdet(matrix(weight, image)).logabsdet
    torch.testing.assert_close(log_det, expected, rtol=1e-12, atol=1e-12)
    assert bool(whole_inverses) == (kernel[0] == 5 and image[0] % 2 == 1), "only where blocks do not fit"


@pytest.mark.parametrize("shape", [(1, 28, 28), (4, 14, 14), (16, 7, 7)], ids=str)
def test_layers_of_the_paper_need_no_whole_inverse(whole_inverses: list[Size], shape: tuple[int, int, int]) -> None:
    image = (shape[1], shape[2])
    weight = near_identity(shape[0], (3, 3), 0.02).requires_grad_()
    log_det, inverse = nearest_inverse(weight, image)
    assert whole_inverses == []
    expected = torch.linalg.slogdet(materialise(weight, image)).logabsdet
    (gradient,) = torch.autograd.grad(expected, weight)
    torch.testing.assert_close(log_det, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flip(inverse) * multiplicity((3, 3), image), gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("centre", [0.0, 1e-12, 1e-9, 1e-6, 1e-4])
def test_blocks_that_need_pivots_are_not_used(whole_inverses: list[Size], centre: float) -> None:
    # Rows of pixels exchange their values: the blocks on the diagonal have hardly an inverse, the matrix has one.
    weight = torch.tensor([0.7, centre, 1.9], dtype=torch.float64).view(1, 1, 3, 1)
    log_det, inverse = nearest_inverse(weight, (8, 3))
    assert whole_inverses == [(8, 3)]
    torch.testing.assert_close(inverse, nearest_by_least_squares(weight, (8, 3)), rtol=0, atol=1e-11)
    expected = torch.linalg.slogdet(matrix(weight, (8, 3))).logabsdet
    torch.testing.assert_close(log_det, expected, rtol=1e-12, atol=1e-12)


def test_a_singular_kernel_has_no_nearest_inverse() -> None:
    layer = ExactConv(2).train()
    with torch.no_grad():
        layer.weight.zero_()
    with pytest.raises(LinAlgError, match="no inverse"):
        nearest_inverse(layer.weight, (4, 4))
    log_det = layer(torch.ones(1, 2, 4, 4))[1]
    assert log_det.item() == -math.inf
    log_det.sum().backward()
    assert layer.weight.grad is not None
    assert bool(layer.weight.grad.isnan().all()), "no step can be taken along it"


def test_accelerators_compute_the_same_gradient_by_one_large_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for one."""
    layer, x = ExactConv(2, (3, 3)).double().train(), torch.ones(1, 2, 6, 5, dtype=torch.float64)
    values, gradients = [], []
    for on_cpu in ({"cpu"}, set[str]()):
        for place in (convolution, module):
            monkeypatch.setattr(place, "ON_CPU", on_cpu)
        log_det = layer.log_det(x).sum()
        values.append(log_det.detach())
        gradients.extend(torch.autograd.grad(log_det, layer.weight))
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
