"""Zero-padded convolutions and their nearest inverses against independent computations."""

import math

import pytest
import torch

from snf_models.bijections import convolution, convolution_matrix
from snf_models.bijections.convolution import ExactConv
from snf_models.bijections.convolution_matrix import (
    FactorisedConvolution,
    LinAlgError,
    Size,
    convolve,
    correlate,
    flip,
    materialise,
    multiplicity,
    nearest_inverse,
    project,
)
from tests.models.bijections.convolutions import apply, matrix, near_identity, normal, placements

KERNELS = pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (1, 3), (3, 3), (5, 3)], ids=str)
IMAGES = pytest.mark.parametrize("image", [(5, 7), (8, 8)], ids=str)


def layer(channels: int, kernel: Size, scale: float = 0.1) -> ExactConv:
    """A float64 layer well away from where it starts, in evaluation mode."""
    made = ExactConv(channels, kernel).double().eval()
    with torch.no_grad():
        made.weight.copy_(near_identity(channels, kernel, scale))
        made.bias.copy_(normal(channels, seed=1))
    return made


@KERNELS
@pytest.mark.parametrize("image", [(5, 7), (8, 8), (2, 3)], ids=str)
def test_multiplicity_counts_placements(kernel: Size, image: Size) -> None:
    counted = placements(1, kernel, image).sum((-1, -2))[0, 0]
    assert torch.equal(multiplicity(kernel, image), counted)
    assert multiplicity(kernel, image) is multiplicity(kernel, image), "computed once a shape"
    weight = torch.ones(1, 1, *kernel, dtype=torch.float64, requires_grad=True)
    padding = (kernel[0] // 2, kernel[1] // 2)
    output = torch.nn.functional.conv2d(torch.ones(1, 1, *image, dtype=torch.float64), weight, padding=padding)
    (ones_by_ones,) = torch.autograd.grad(output.sum(), weight)
    assert torch.equal(counted, ones_by_ones[0, 0])


@KERNELS
@IMAGES
def test_matrix_transpose_and_sums_over_placements(kernel: Size, image: Size) -> None:
    weight = normal(2, 2, *kernel, seed=0)
    expected = matrix(weight, image)
    assert torch.equal(materialise(weight, image), expected)
    assert torch.equal(materialise(flip(weight), image), expected.T)
    basis = placements(2, kernel, image)
    sums = torch.einsum("ocabij,ij->ocab", basis, expected.T)
    torch.testing.assert_close(sums, flip(weight) * multiplicity(kernel, image), rtol=0, atol=1e-12)
    x, z = normal(3, 2, *image, seed=1), normal(3, 2, *image, seed=2)
    products = torch.einsum("ocabij,nj,ni->ocab", basis, x.flatten(1), z.flatten(1))
    torch.testing.assert_close(correlate(x, z, kernel), products, rtol=0, atol=1e-12)


@KERNELS
@IMAGES
@pytest.mark.parametrize("channels", [1, 3])
def test_factors_have_the_log_det_and_the_inverse_of_the_matrix(kernel: Size, image: Size, channels: int) -> None:
    weight = near_identity(channels, kernel, 0.3)
    dense = matrix(weight, image)
    factors = FactorisedConvolution(weight, image)
    expected = float(torch.linalg.slogdet(dense).logabsdet)
    assert factors.log_abs_det == pytest.approx(expected, rel=1e-8, abs=1e-10)
    z = normal(4, channels, *image, seed=1)
    scale = float(torch.linalg.matrix_norm(torch.linalg.inv(dense), ord=2))
    for x, linear in ((factors.solve(z), dense), (factors.solve(z, "transpose"), dense.T)):
        assert float((apply(linear, x) - z).abs().max()) < 1e-9
        assert float((x - apply(torch.linalg.inv(linear), z)).abs().max()) < 1e-11 * scale
    torch.testing.assert_close(factors.inverse_images().flatten(1).T, torch.linalg.inv(dense), rtol=0, atol=1e-9)


@pytest.mark.parametrize("image", [(12, 12), (3, 3)], ids=["banded", "dense"])
def test_no_images_have_no_solutions(image: Size) -> None:
    factors = FactorisedConvolution(near_identity(2, (3, 3), 0.1), image)
    none = torch.empty(0, 2, *image)
    assert factors.solve(none).shape == factors.solve(none, "transpose").shape == none.shape
    x, log_det = layer(2, (3, 3)).float().inverse(none)
    assert (x.shape, log_det.shape) == (none.shape, (0,))


def test_narrow_bands_are_factorised_as_bands_and_wide_ones_are_not() -> None:
    for channels, kernel, image, half_bandwidth, banded in [
        (1, (3, 3), (28, 28), 29, True),
        (4, (3, 3), (14, 14), 63, True),
        (16, (3, 3), (7, 7), 143, True),
        (2, (5, 3), (5, 7), 31, False),
        (1, (5, 5), (3, 2), 6, False),
    ]:
        factors = FactorisedConvolution(near_identity(channels, kernel, 0.01), image)
        assert (factors.half_bandwidth, factors.banded) == (half_bandwidth, banded)


@pytest.mark.parametrize(("kernel", "image"), [((3, 3), (8, 8)), ((5, 5), (3, 3))], ids=str)
def test_a_singular_kernel_has_log_det_minus_infinity_and_no_inverse(kernel: Size, image: Size) -> None:
    factors = FactorisedConvolution(torch.zeros(2, 2, *kernel), image)
    assert factors.log_abs_det == -math.inf
    with pytest.raises(torch.linalg.LinAlgError, match="no inverse"):
        factors.solve(torch.ones(1, 2, *image))


@KERNELS
@IMAGES
def test_projection_is_the_nearest_convolution(kernel: Size, image: Size) -> None:
    factors = FactorisedConvolution(near_identity(2, kernel, 0.1), image)
    inverse = factors.inverse_images()
    basis = placements(2, kernel, image).flatten(0, 3).flatten(1)
    nearest = torch.linalg.lstsq(basis.T, inverse.flatten(1).T.flatten()).solution
    torch.testing.assert_close(project(inverse, kernel).flatten(), nearest, rtol=0, atol=1e-12)


def test_a_sample_takes_one_factorisation_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    factorised: list[Size] = []

    def factors(weight: torch.Tensor, image: Size) -> FactorisedConvolution:
        factorised.append(image)
        return FactorisedConvolution(weight, image)

    conv, z = layer(2, (3, 3)), normal(2, 2, 9, 8, seed=3)
    expected, log_det = (part.detach() for part in conv.inverse(z))
    monkeypatch.setattr(convolution, "FactorisedConvolution", factors)
    with torch.no_grad():
        x, inverse_log_det = conv.inverse(z)
    assert factorised == [(9, 8)]
    torch.testing.assert_close(x, expected, rtol=0, atol=0)
    torch.testing.assert_close(inverse_log_det, log_det, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "image"), [((3, 3), (5, 4)), ((5, 1), (3, 6)), ((3, 5), (4, 2))], ids=str)
def test_gradients_of_log_det_and_inverse_are_those_of_the_matrix(kernel: Size, image: Size) -> None:
    conv = layer(2, kernel).train()
    z, slope = normal(3, 2, *image, seed=3).requires_grad_(), normal(3, 2, *image, seed=4)
    x, log_det = conv.inverse(z)
    got = torch.autograd.grad((x * slope).sum() + 0.7 * log_det.sum(), [conv.weight, conv.bias, z])
    weight, bias = conv.weight.detach().requires_grad_(), conv.bias.detach().requires_grad_()
    dense = matrix(weight, image)
    x = apply(torch.linalg.inv(dense), z - bias.view(1, -1, 1, 1))
    value = (x * slope).sum() - 0.7 * 3 * torch.linalg.slogdet(dense).logabsdet
    for mine, expected in zip(got, torch.autograd.grad(value, [weight, bias, z]), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-10)


def test_start_is_near_the_identity() -> None:
    torch.manual_seed(0)
    conv = ExactConv(16)
    identity = near_identity(16, (3, 3), 0.0).float()
    noise = conv.weight.detach() - identity
    assert float(noise.std()) == pytest.approx(0.01 * math.sqrt(2 / (2 * 16 * 9)), rel=0.1)
    x = torch.randn(2, 16, 7, 7)
    torch.testing.assert_close(convolve(identity, x), x, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 4), (0, 1)], ids=str)
def test_kernels_without_a_middle_are_refused(kernel: Size) -> None:
    with pytest.raises(ValueError, match="odd sides, got"):
        ExactConv(2, kernel)


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

    monkeypatch.setattr(convolution_matrix, "FactorisedConvolution", factorised)
    return computed


@KERNELS
@pytest.mark.parametrize("image", [(5, 7), (8, 8), (2, 3), (1, 4)], ids=str)
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
    assert bool(layer.weight.grad.isnan().all()), "no step can be taken along it"


def test_accelerators_compute_the_same_gradient_by_one_large_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for one."""
    layer, x = ExactConv(2, (3, 3)).double().train(), torch.ones(1, 2, 6, 5, dtype=torch.float64)
    values, gradients = [], []
    for on_cpu in ({"cpu"}, set[str]()):
        for place in (convolution, convolution_matrix):
            monkeypatch.setattr(place, "ON_CPU", on_cpu)
        log_det = layer.log_det(x).sum()
        values.append(log_det.detach())
        gradients.extend(torch.autograd.grad(log_det, layer.weight))
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
