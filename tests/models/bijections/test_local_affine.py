"""Local affine layers against a 1x1 convolution for each cell: values, log-dets and the paper's gradients."""

import numpy as np
import pytest
import torch

from snf_models.bijections.base import LogDetGradient
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.conformance import randomise
from snf_models.bijections.local_affine import (
    ExactLocalAffine,
    SelfNormalizingLocalAffine,
    cell_of_places,
    places_of_cells,
)
from snf_models.bijections.matrices import inverses, log_abs_dets, solutions
from snf_models.threads import torch_threads


@pytest.mark.parametrize(("height", "width", "grid"), [(4, 6, 1), (4, 6, 2), (5, 7, 3), (14, 14, 8), (3, 2, 16)])
def test_every_place_is_in_one_cell_and_found_there(height: int, width: int, grid: int) -> None:
    cells = cell_of_places(height, width, grid)
    table, position = places_of_cells(height, width, grid)
    assert cells.shape == position.shape == (height * width,)
    assert len(table) == min(grid, height) * min(grid, width) == int(cells.max()) + 1
    assert table.flatten()[position].tolist() == list(range(height * width))
    for cell, places in enumerate(table.tolist()):
        assert {int(cells[place]) for place in places} == {cell}


@pytest.mark.parametrize("gradient", ["paper", "newton-schulz"])
@pytest.mark.parametrize("grid", [1, 2, 16])
def test_gradients_are_those_of_a_convolution_in_each_cell(grid: int, gradient: LogDetGradient) -> None:
    """The layer against one 1x1 convolution a cell, each applied to the places of its cell alone."""
    layer = SelfNormalizingLocalAffine((3, 4, 5), grid).double().train()
    layer.gradient = gradient
    randomise(layer, 0.3)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64)
    direction = torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64)
    mine = x.clone().requires_grad_()
    z, log_det = layer(mine)
    torch.autograd.backward((z * direction).sum() + log_det.sum() + layer.pop_reconstruction_error().sum())

    cells = cell_of_places(4, 5, grid)
    total = torch.zeros((), dtype=torch.float64)
    centred = (x - layer.mean.detach()).requires_grad_()
    for cell in range(int(cells.max()) + 1):
        convolution = SelfNormalizingConv1x1(3).double().train()
        convolution.gradient = gradient
        with torch.no_grad():
            convolution.weight.copy_(layer.weight[cell])
            convolution.inverse_weight.copy_(layer.inverse_weight[cell])
        own = centred.flatten(2)[:, :, cells == cell, None]
        y, own_log_det = convolution(own)
        torch.testing.assert_close(z.flatten(2)[:, :, cells == cell, None], y, rtol=0, atol=1e-12)
        part = (y * direction.flatten(2)[:, :, cells == cell, None]).sum() + own_log_det.sum()
        torch.autograd.backward(
            part + convolution.pop_reconstruction_error().sum(),
            inputs=[convolution.weight, convolution.inverse_weight, centred],
        )
        torch.testing.assert_close(layer.weight.grad[cell], convolution.weight.grad, rtol=0, atol=1e-11)
        torch.testing.assert_close(layer.inverse_weight.grad[cell], convolution.inverse_weight.grad, rtol=0, atol=1e-11)
        total = total + part.detach()
    torch.testing.assert_close(mine.grad, centred.grad, rtol=0, atol=1e-11)


def test_determinants_and_inverses_of_many_large_matrices_with_several_threads() -> None:
    """A batch of them is wrong in PyTorch 2.13; one by one they are right."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 152, 300, generator=generator, dtype=torch.float64)
    matrices = x @ x.mT / 300
    expected = [float(np.linalg.slogdet(matrix)[1]) for matrix in matrices.numpy()]
    with torch_threads(2):
        assert log_abs_dets(matrices).tolist() == pytest.approx(expected, rel=1e-12)
        identity = torch.eye(152, dtype=torch.float64).expand_as(matrices)
        torch.testing.assert_close(inverses(matrices) @ matrices, identity, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("stack", [(), (0,), (2, 0), (2, 3)], ids=str)
def test_stacks_of_any_shape(stack: tuple[int, ...], rows: int) -> None:
    matrix = torch.eye(rows, dtype=torch.float64) + 0.1 / rows
    matrices, right = matrix.expand(*stack, rows, rows), torch.ones(*stack, rows, 2, dtype=torch.float64)
    inverse, log_det = torch.linalg.inv(matrix), torch.linalg.slogdet(matrix).logabsdet
    torch.testing.assert_close(inverses(matrices), inverse.expand(matrices.shape))
    torch.testing.assert_close(log_abs_dets(matrices), log_det.expand(stack))
    torch.testing.assert_close(solutions(matrices, right), inverse @ right)


def test_a_layer_trains_after_another_has_scored_without_gradients() -> None:
    """The table of places is kept for both."""
    x = torch.randn(2, 3, 11, 13)
    for layer, training in ((ExactLocalAffine((3, 11, 13), 4), False), (ExactLocalAffine((3, 11, 13), 4), True)):
        with torch.inference_mode(not training):
            z, log_det = layer(x)
    torch.autograd.backward(z.square().sum() + log_det.sum())
    assert layer.weight.grad is not None
