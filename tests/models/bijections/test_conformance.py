"""The contract of a bijection, checked for every one of them: a new layer is one line in ``CASES``.

A bijection of another package is checked by :func:`check`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import models.bijections
from models.bijections.actnorm import ActNorm
from models.bijections.additive_coupling import AdditiveCoupling, PlaceCoupling
from models.bijections.base import Bijection, ChannelAffine, Elementwise, SelfNormalizing
from models.bijections.conv1x1 import ExactConv1x1, LUConv1x1, SelfNormalizingConv1x1
from models.bijections.convolution import ExactConv, SelfNormalizingConv
from models.bijections.coupling import AffineCoupling
from models.bijections.dense import ExactDense, RelativeGradientDense, SelfNormalizingDense
from models.bijections.emerging import AutoregressiveConv, EmergingConv
from models.bijections.exponential import ExponentialConv
from models.bijections.identity import Identity
from models.bijections.local_affine import ExactLocalAffine, SelfNormalizingLocalAffine
from models.bijections.matrix_inverse import MatrixInverse
from models.bijections.periodic import PeriodicConv
from models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from models.bijections.smooth_leaky_relu import SmoothLeakyReLU
from models.bijections.spline import SplineActivation
from models.bijections.squeeze import Squeeze
from models.bijections.two_layer_inverse import TwoLayerInverseConv
from models.bijections.woodbury import WoodburyConv
from tests.models.helpers import jacobian_log_det, mark_initialized, randomise, real_images

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A bijection under test: how to make it, the shapes ``(C, H, W)`` it takes, and what it must refuse."""

    name: str
    make: Callable[[], Bijection]
    shapes: tuple[Shape, ...]
    refused: tuple[tuple[Shape, str], ...] = ()
    """Whole shapes of inputs that forward refuses, with the text of the error."""
    inverse_refused: tuple[tuple[Shape, str], ...] = ()
    pixels: bool = False
    """Inputs are pixels in [0, 256) and not any real number."""
    volume_preserving: bool = False
    training_tolerance: float = 1e-12
    """How far training mode may be off, where it computes less precisely than evaluation mode."""


def marginal_pixels() -> MarginalPixels:
    pixels = MarginalPixels()
    pixels.fit(real_images(64))
    return pixels


ODD = ((1, 5, 3), (3, 4, 4), (2, 1, 1))
CASES = (
    Case(
        "actnorm", lambda: ActNorm(3), ((3, 5, 4), (3, 1, 1)), (((2, 4, 5, 5), r"\(N, 3, H, W\), got \(2, 4, 5, 5\)"),)
    ),
    Case("exact-dense", lambda: ExactDense(12), ((3, 2, 2), (12, 1, 1)), (((2, 3, 2, 3), r"12 dimensions, got"),)),
    Case("snf-dense", lambda: SelfNormalizingDense(6), ((1, 2, 3), (6, 1, 1)), (((2, 6), r"6 dimensions, got"),)),
    Case("relative-dense", lambda: RelativeGradientDense(6), ((1, 2, 3), (6, 1, 1)), (((2, 5, 1, 1), r"6 dim"),)),
    Case("lu-conv1x1", lambda: LUConv1x1(4), ((4, 3, 5), (4, 1, 1)), (((2, 3, 5, 5), r"\(N, 4, H, W\), got"),)),
    Case("woodbury", lambda: WoodburyConv((4, 3, 5), 2, 3), ((4, 3, 5),), (((2, 4, 5, 3), r"\(N, 4, 3, 5\), got"),)),
    Case("smooth-leaky-relu", SmoothLeakyReLU, ODD),
    Case("smooth-leaky-relu-steep", lambda: SmoothLeakyReLU(0.01), ODD),
    Case("spline", lambda: SplineActivation((2, 3, 4)), ((2, 3, 4),), (((2, 2, 4, 3), r"\(N, 2, 3, 4\), got"),)),
    Case("spline-narrow", lambda: SplineActivation((2, 3, 1), 8, 1.5), ((2, 3, 1),)),
    Case("exact-conv", lambda: ExactConv(3, (3, 3)), ((3, 5, 4), (3, 1, 2)), (((2, 4, 5, 5), r"\(N, 3, H, W\), got"),)),
    Case("exact-conv-5x1", lambda: ExactConv(2, (5, 1)), ((2, 6, 3), (2, 1, 4)), (((2, 5, 3), r"\(N, 2, H"),)),
    Case("snf-conv", lambda: SelfNormalizingConv(2), ((2, 4, 5), (2, 2, 3)), (((2, 5, 3), r"\(N, 2, H, W\), got"),)),
    Case("snf-conv-two", lambda: TwoLayerInverseConv(2), ((2, 4, 5), (2, 2, 3)), (((2, 5, 3), r"\(N, 2, H, W\)"),)),
    Case(
        "autoregressive-conv",
        lambda: AutoregressiveConv(3),
        ((3, 4, 3), (3, 1, 1)),
        (((2, 2, 4, 4), r"\(N, 3, H, W\), got"),),
    ),
    Case("emerging-conv", lambda: EmergingConv(3), ((3, 4, 3), (3, 1, 1)), (((2, 2, 4, 4), r"\(N, 3, H, W\), got"),)),
    Case(
        "exponential-conv",
        lambda: ExponentialConv((2, 4, 3)),
        ((2, 4, 3),),
        (((2, 2, 4, 4), r"\(N, 2, 4, 3\), got"),),
        training_tolerance=np.inf,  # six terms of the series, and a norm estimate that moves with every step
    ),
    Case("periodic-conv", lambda: PeriodicConv(2), ((2, 4, 5), (2, 3, 3)), (((2, 2, 2, 5), "at least 3x3, got 2x5"),)),
    Case("exact-conv1x1", lambda: ExactConv1x1(4), ((4, 3, 5), (4, 1, 1)), (((2, 3, 5, 5), r"\(N, 4, H, W\), got"),)),
    Case(
        "snf-conv1x1", lambda: SelfNormalizingConv1x1(5), ((5, 3, 2), (5, 1, 1)), (((2, 5, 3), r"\(N, 5, H, W\), got"),)
    ),
    Case(
        "exact-local", lambda: ExactLocalAffine((3, 4, 5), 2), ((3, 4, 5),), (((2, 3, 5, 4), r"\(N, 3, 4, 5\), got"),)
    ),
    Case(
        "snf-local", lambda: SelfNormalizingLocalAffine((3, 5, 4), 3), ((3, 5, 4),), (((2, 3, 4), r"\(N, 3, 5, 4\)"),)
    ),
    Case("snf-local-by-place", lambda: SelfNormalizingLocalAffine((2, 2, 3), 16), ((2, 2, 3),)),
    Case("coupling", lambda: AffineCoupling(4, 8), ((4, 3, 5), (4, 1, 1)), (((2, 6, 3, 5), r"\(N, 4, H, W\), got"),)),
    Case("coupling-odd", lambda: AffineCoupling(5, 8), ((5, 2, 3), (5, 1, 4)), (((4, 3, 5), r"\(N, 5, H, W\), got"),)),
    Case(
        "coupling-by-place",
        lambda: AffineCoupling(5, 8, (2, 3)),
        ((5, 2, 3),),
        (((4, 3, 2, 3), r"\(N, 5, H, W\), got"), ((2, 5, 3, 2), "expected images of 2x3, got 3x2")),
    ),
    Case(
        "place-coupling",
        lambda: PlaceCoupling((4, 3, 5), 8),
        ((4, 3, 5),),
        (((2, 4, 5, 3), r"\(N, 4, 3, 5\), got"), ((4, 3, 5), r"\(N, 4, 3, 5\), got")),
        (((2, 4, 3, 4), r"\(N, 4, 3, 5\), got"),),
        volume_preserving=True,
    ),
    Case(
        "additive-coupling",
        lambda: AdditiveCoupling(5, 8),
        ((5, 3, 4), (5, 1, 1)),
        (((2, 4, 3, 5), r"\(N, 5, H, W\), got"),),
        volume_preserving=True,
    ),
    Case("place-coupling-odd", lambda: PlaceCoupling((5, 1, 2), 8), ((5, 1, 2),), volume_preserving=True),
    Case(
        "squeeze",
        Squeeze,
        ((1, 4, 6), (3, 2, 2)),
        (((2, 1, 5, 4), r"even sides, got \(2, 1, 5, 4\)"), ((2, 4, 4), "even sides, got")),
        (((2, 3, 4, 4), r"\(N, 4C, H, W\), got \(2, 3, 4, 4\)"),),
        volume_preserving=True,
    ),
    Case("identity", Identity, ODD, volume_preserving=True),
    Case("affine-pixels", AffinePixels, ODD, pixels=True),
    Case("logit-pixels", LogitPixels, ODD, pixels=True),
    Case("logit-pixels-wide", lambda: LogitPixels(0.05), ODD, pixels=True),
    Case("marginal-pixels", marginal_pixels, ODD, pixels=True),
    Case("marginal-pixels-flat", MarginalPixels, ODD, pixels=True),
)
CASES_BY_NAME = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
EVERY_SHAPE = pytest.mark.parametrize(
    ("case", "shape"), [pytest.param(c, s, id=f"{c.name}-{'x'.join(map(str, s))}") for c in CASES for s in c.shapes]
)


def build(case: Case, dtype: torch.dtype = torch.float64) -> Bijection:
    """The bijection of ``case`` with every parameter moved away from where it starts, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        bijection = case.make()
    mark_initialized(bijection)
    randomise(bijection, 0.25, seed=2)
    # Transforms of pixels keep their float64 buffers: they are never converted.
    return (bijection if case.pixels else bijection.to(dtype)).eval()


def inputs(case: Case, shape: Shape, count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """``count`` inputs; pixels include black, white and the two ends of the range."""
    generator = np.random.default_rng((count, *shape))
    if not case.pixels:
        return torch.from_numpy(generator.standard_normal((count, *shape)) * 1.5).to(dtype)
    pixels = generator.choice([0, 0, 1, 77, 200, 254, 255, 255], (count, *shape))
    x = pixels + 0.01 + 0.98 * generator.random((count, *shape))
    return torch.from_numpy(x).to(dtype)


def check(case: Case) -> int:
    """Check the contract for a bijection that is not in the table, such as one of another package.

    Returns:
        The number of checks; the first promise that is not kept raises ``AssertionError``.
    """
    of_shapes = (
        test_round_trips_both_ways,
        test_log_det_is_that_of_the_jacobian,
        test_log_dets_say_something,
        test_no_sample_sees_its_batch_mates,
        test_no_noise_and_no_change_of_the_input,
    )
    of_layers = (
        test_every_parameter_gets_a_gradient,
        test_training_mode_maps_as_evaluation_mode_does,
        test_approximate_inverse_is_exact_where_nothing_is_learned_or_all_is,
    )
    for shape in case.shapes:
        for dtype in (torch.float32, torch.float64):
            test_shapes_types_and_finiteness(case, shape, dtype)
        for test in of_shapes:
            test(case, shape)
    for test_of_layer in of_layers:
        test_of_layer(case)
    with TemporaryDirectory() as folder:
        test_state_dict_round_trip(case, Path(folder))
    for shape, text in case.refused:
        test_forward_refuses(case, shape, text)
    return len(case.shapes) * (2 + len(of_shapes)) + len(of_layers) + 1 + len(case.refused)


@EVERY_SHAPE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_shapes_types_and_finiteness(case: Case, shape: Shape, dtype: torch.dtype) -> None:
    bijection, x = build(case, dtype), inputs(case, shape, dtype=dtype)
    z, log_det = bijection(x)
    back, inverse_log_det = bijection.inverse(z)
    assert z[0].numel() == x[0].numel()
    assert back.shape == x.shape
    for tensor in (z, log_det, back, inverse_log_det):
        assert tensor.dtype == dtype
        assert tensor.device == x.device
        assert tensor.isfinite().all()
    assert log_det.shape == inverse_log_det.shape == (len(x),)


@EVERY_SHAPE
@torch.no_grad()
def test_round_trips_both_ways(case: Case, shape: Shape) -> None:
    bijection, x = build(case), inputs(case, shape)
    z, log_det = bijection(x)
    back, inverse_log_det = bijection.inverse(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-7 if case.pixels else 1e-10)
    # The other way round, from latents that no forward call has made.
    other = bijection(inputs(case, shape, count=5))[0] * 0.9
    again, log_det = bijection(bijection.inverse(other)[0])
    torch.testing.assert_close(again, other, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_det, -bijection.inverse(other)[1], rtol=0, atol=1e-7)


@EVERY_SHAPE
def test_log_det_is_that_of_the_jacobian(case: Case, shape: Shape) -> None:
    bijection, x = build(case), inputs(case, shape, count=2)
    z, log_det = bijection(x)
    expected = jacobian_log_det(lambda s: bijection(s)[0], x)
    torch.testing.assert_close(log_det.detach(), expected, rtol=0, atol=1e-8)
    inverse_log_det = bijection.inverse(z.detach())[1]
    expected = jacobian_log_det(lambda s: bijection.inverse(s)[0], z.detach())
    torch.testing.assert_close(inverse_log_det.detach(), expected, rtol=0, atol=1e-6 if case.pixels else 1e-8)


@EVERY_SHAPE
@torch.no_grad()
def test_log_dets_say_something(case: Case, shape: Shape) -> None:
    log_det = build(case)(inputs(case, shape))[1]
    if case.volume_preserving:
        assert (log_det == 0).all()
    else:
        assert log_det.abs().min() > 1e-2
    distinct = len(set(log_det.tolist()))
    if type(build(case)).constant_log_det:
        assert distinct == 1
    else:
        assert distinct == len(log_det)


@EVERY_SHAPE
@torch.no_grad()
def test_no_sample_sees_its_batch_mates(case: Case, shape: Shape) -> None:
    bijection, x = build(case), inputs(case, shape, count=3)
    for direction, batch in ((bijection.forward, x), (bijection.inverse, bijection(x)[0])):
        together, log_det = direction(batch)
        alone = [direction(sample[None]) for sample in batch]
        torch.testing.assert_close(torch.cat([y for y, _ in alone]), together, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat([d for _, d in alone]), log_det, rtol=1e-12, atol=1e-12)
        order = torch.tensor([2, 0, 1])
        shuffled, shuffled_log_det = direction(batch[order])
        torch.testing.assert_close(shuffled, together[order], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(shuffled_log_det, log_det[order], rtol=1e-12, atol=1e-12)


@EVERY_SHAPE
@torch.no_grad()
def test_no_noise_and_no_change_of_the_input(case: Case, shape: Shape) -> None:
    bijection, x = build(case), inputs(case, shape)
    before = x.clone()
    first, second = bijection(x), bijection(x)
    assert torch.equal(x, before)
    assert torch.equal(first[0], second[0])
    z = first[0].clone()
    bijection.inverse(z)
    assert torch.equal(z, first[0])


@CASES_BY_NAME
@torch.no_grad()
def test_state_dict_round_trip(case: Case, tmp_path: Path) -> None:
    bijection, x = build(case), inputs(case, case.shapes[0])
    expected = bijection(x)
    save_file({name: value.contiguous() for name, value in bijection.state_dict().items()}, tmp_path / "state")
    fresh = case.make()
    fresh = (fresh if case.pixels else fresh.double()).eval()
    fresh.load_state_dict(load_file(tmp_path / "state"))
    z, log_det = fresh(x)
    assert torch.equal(z, expected[0])
    assert torch.equal(log_det, expected[1])


@CASES_BY_NAME
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    bijection, x = build(case).train(), inputs(case, case.shapes[0])
    x.requires_grad_()
    z, log_det = bijection(x)
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(z.shape)))
    loss = (z * weights).sum() + log_det.sum()
    if isinstance(bijection, SelfNormalizing):
        loss = loss + bijection.pop_reconstruction_error().sum()
    torch.autograd.backward(loss)
    for name, tensor in [("input", x), *bijection.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().sum() > 0, name


@CASES_BY_NAME
@torch.no_grad()
def test_training_mode_maps_as_evaluation_mode_does(case: Case) -> None:
    bijection, x = build(case), inputs(case, case.shapes[0])
    expected, expected_log_det = bijection(x)
    z, log_det = bijection.train()(x)
    torch.testing.assert_close(z, expected, rtol=case.training_tolerance, atol=case.training_tolerance)
    if bijection.omits_log_det:
        assert (log_det == 0).all()
    else:
        torch.testing.assert_close(log_det, expected_log_det, rtol=case.training_tolerance, atol=0)


@CASES_BY_NAME
@torch.no_grad()
def test_approximate_inverse_is_exact_where_nothing_is_learned_or_all_is(case: Case) -> None:
    bijection, x = build(case), inputs(case, case.shapes[0])
    if isinstance(bijection, SelfNormalizing):
        z = bijection(x)[0]
        assert (bijection.approximate_inverse(z) - x).abs().max() > 1e-2, "randomised R is no inverse"
        bijection.refresh_inverse(case.shapes[0])
    if isinstance(bijection, SelfNormalizingConv | TwoLayerInverseConv):
        return  # the inverse of a convolution is no convolution, so R is never exact
    torch.testing.assert_close(bijection.approximate_inverse(bijection(x)[0]), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "shape", "text"),
    [pytest.param(case, shape, text, id=f"{case.name}-{shape}") for case in CASES for shape, text in case.refused],
)
def test_forward_refuses(case: Case, shape: Shape, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(case)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("case", "shape", "text"),
    [
        pytest.param(case, shape, text, id=f"{case.name}-{shape}")
        for case in CASES
        for shape, text in case.inverse_refused or (() if case.volume_preserving else case.refused)
    ],
)
def test_inverse_refuses(case: Case, shape: Shape, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(case).inverse(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.make(), ChannelAffine)], ids=lambda case: case.name)
@torch.no_grad()
def test_affine_is_the_map(case: Case) -> None:
    bijection, x = build(case), inputs(case, case.shapes[0])
    assert isinstance(bijection, ChannelAffine)
    matrix, offset = bijection.affine()
    expected = torch.einsum("oc,nchw->nohw", matrix, x) + offset.view(1, -1, 1, 1)
    torch.testing.assert_close(bijection(x)[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(bijection.log_abs_det(), torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=1e-12)


def test_every_bijection_is_in_the_table() -> None:
    found = set()
    for module in pkgutil.iter_modules(models.bijections.__path__, "models.bijections."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, Bijection) and not inspect.isabstract(kind):
                found.add(kind)
    found -= {Bijection, ChannelAffine, Elementwise, MatrixInverse, SelfNormalizing}
    assert found == {type(case.make()) for case in CASES}
