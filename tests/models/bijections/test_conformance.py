"""Every bijection keeps the contract, and refuses second derivatives and wrong arguments."""

import importlib
import inspect
import math
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import snf_models.bijections
from snf_models.bijections import conformance
from snf_models.bijections.activations import Identity, SmoothLeakyReLU, SplineActivation
from snf_models.bijections.autoregressive import AutoregressiveConv, EmergingConv, MaskedAutoregressive
from snf_models.bijections.base import (
    Bijection,
    ChannelAffine,
    Conditional,
    ConstantLogDet,
    Elementwise,
    LinearLayer,
    SelfNormalizing,
    call,
)
from snf_models.bijections.channels import ActNorm, ExactConv1x1, LUConv1x1, SelfNormalizingConv1x1, Squeeze
from snf_models.bijections.conformance import Case, Shape, build, inputs, randomise
from snf_models.bijections.convolution import ExactConv, SelfNormalizingConv, TwoLayerInverseConv
from snf_models.bijections.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    CouplingProducts,
    HalfCoupling,
    PlaceCoupling,
    SplineCoupling,
)
from snf_models.bijections.dense import ExactDense, RelativeGradientDense, SelfNormalizingDense, WoodburyConv
from snf_models.bijections.local_affine import ExactLocalAffine, SelfNormalizingLocalAffine
from snf_models.bijections.matrices import MatrixInverse
from snf_models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from snf_models.bijections.spectral import ExponentialConv, PeriodicConv
from snf_models.errors import UninitializedModel
from snf_models.flows.flow import apply_layers
from snf_models.flows.layers import LayerSpec, layer_types
from tests.models.bijections.convolutions import normal
from tests.models.helpers import real_images
from tests.support.unmeasured import unmeasured


def marginal_pixels() -> MarginalPixels:
    pixels = MarginalPixels()
    pixels.fit(real_images(64))
    return pixels


ODD = ((1, 5, 3), (3, 4, 4), (2, 1, 1))
CASES: tuple[Case, ...] = (
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
    Case(
        "snf-conv",
        lambda: SelfNormalizingConv(2),
        ((2, 4, 5), (2, 2, 3)),
        (((2, 5, 3), r"\(N, 2, H, W\), got"),),
        exact_learned_inverse=False,
    ),
    Case(
        "snf-conv-two",
        lambda: TwoLayerInverseConv(2),
        ((2, 4, 5), (2, 2, 3)),
        (((2, 5, 3), r"\(N, 2, H, W\)"),),
        exact_learned_inverse=False,
    ),
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
    Case("coupling-given", lambda: AffineCoupling(5, 8, context=3), ((5, 2, 3), (5, 1, 1))),
    Case("additive-coupling-given", lambda: AdditiveCoupling(4, 8, context=2), ((4, 2, 3),), volume_preserving=True),
    Case(
        "spline-coupling",
        lambda: SplineCoupling(5, 8, None, 5, 3.0),
        ((5, 2, 3), (5, 1, 1)),
        (((2, 4, 3, 5), r"\(N, 5, H, W\), got"),),
    ),
    Case(
        "spline-coupling-by-place",
        lambda: SplineCoupling(4, 8, places=(2, 3)),
        ((4, 2, 3),),
        (((2, 4, 3, 2), "expected images of 2x3, got 3x2"),),
    ),
    Case("spline-coupling-given", lambda: SplineCoupling(4, 8, context=3), ((4, 2, 3), (4, 1, 1))),
    Case(
        "masked-autoregressive",
        lambda: MaskedAutoregressive(12, 16),
        ((3, 2, 2), (12, 1, 1)),
        (((2, 3, 2, 3), "12 dimensions, got"),),
    ),
    Case("masked-autoregressive-narrow", lambda: MaskedAutoregressive(6, 4, reverse=True), ((1, 2, 3),)),
    Case("masked-autoregressive-given", lambda: MaskedAutoregressive(6, 9, True, context=3), ((1, 2, 3), (6, 1, 1))),
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
SMALL = (2, 4, 3)


def of_type(kind: type[LayerSpec]) -> Case:
    """The case of a layer type that has none above: with its default settings, on small images."""
    layer = kind(**{name: 5 for name, field in kind.model_fields.items() if field.is_required()})
    case = Case(layer.type, lambda: layer.build(SMALL), (SMALL,))
    built = build(case)
    return replace(case, volume_preserving=built.constant_log_det and built.constant_log_det_at(SMALL) == 0)


CASED = {type(case.make()) for case in CASES}
CASES += tuple(of_type(kind) for kind in layer_types() if kind.bijection_class() not in CASED)
EVERY_SHAPE = [pytest.param(c, s, id=f"{c.name}-{'x'.join(map(str, s))}") for c in CASES for s in c.shapes]
NAMED = {"ids": lambda value: getattr(value, "__name__", None) or getattr(value, "name", None)}


@pytest.mark.parametrize("promise", conformance.SHAPE_CHECKS, **NAMED)
@pytest.mark.parametrize(("case", "shape"), EVERY_SHAPE)
def test_promises_for_a_shape(case: Case, shape: Shape, promise: Callable[[Case, Shape], None]) -> None:
    promise(case, shape)


@pytest.mark.parametrize("promise", conformance.LAYER_CHECKS, **NAMED)
@pytest.mark.parametrize("case", CASES, **NAMED)
def test_promises_of_a_layer(case: Case, promise: Callable[[Case], None]) -> None:
    promise(case)


@pytest.mark.parametrize("promise", conformance.CONTEXT_CHECKS, **NAMED)
@pytest.mark.parametrize("case", [case for case in CASES if case.make().context], **NAMED)
def test_promises_of_a_conditional_layer(case: Case, promise: Callable[[Case], None]) -> None:
    promise(case)


@pytest.mark.parametrize(
    ("case", "direction", "shape", "text"),
    [
        pytest.param(case, direction, *refused, id=f"{case.name}-{direction}-{refused[0]}")
        for case in CASES
        for direction, of_direction in (
            ("forward", case.refused),
            ("inverse", case.inverse_refused or (() if case.volume_preserving else case.refused)),
        )
        for refused in of_direction
        if not case.make().context
    ],
)
def test_inputs_are_refused(case: Case, direction: str, shape: Shape, text: str) -> None:
    conformance.inputs_are_refused(case, direction, shape, text)


@pytest.mark.parametrize(
    "case", [case for case in CASES if not (case.pixels or case.make().context or case.name == "squeeze")], **NAMED
)
@torch.no_grad()
def test_frozen_layers_are_copies_that_keep_both_inverses(case: Case) -> None:
    shape = case.shapes[0]
    layer, (x,) = build(case), inputs(case, shape)
    z, log_det = layer(x)
    learned = layer.approximate_inverse(z) if isinstance(layer, SelfNormalizing) else x
    if layer.constant_log_det:
        assert layer.constant_log_det_at(shape) == pytest.approx(float(log_det[0]), abs=1e-10)
    # Networks of affine couplings run in float32.
    close = 1e-4 if isinstance(layer, AffineCoupling) else 1e-8
    frozen = layer.freeze(shape)
    randomise(layer, 1.0)
    mapped, slopes = frozen.forward(x)
    torch.testing.assert_close(mapped, z, rtol=0, atol=close)
    if slopes is not None:
        torch.testing.assert_close(slopes.sum((1, 2)), log_det, rtol=0, atol=10 * close)
    torch.testing.assert_close(frozen.inverse(z, "exact"), x, rtol=0, atol=close)
    torch.testing.assert_close(frozen.inverse(z, "learned"), learned, rtol=0, atol=close)


class Doubled(Bijection):
    """z = 2 x, from which each broken layer differs in one promise."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, torch.full((len(x),), x[0].numel() * math.log(2), dtype=x.dtype)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z / 2, -self.forward(z)[1]


class WrongLogDet(Doubled):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, -super().forward(x)[1]


class MixesSamples(Doubled):
    constant_log_det = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x.roll(1, 0), super().forward(x)[1]

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z.roll(-1, 0) / 2, -super().forward(z)[1]


class ChangesItsInput(Doubled):
    constant_log_det = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mul_(2) if not x.requires_grad else 2 * x, super().forward(x)[1]


class TrainsOtherwise(Doubled):
    constant_log_det = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = super().forward(x)
        return z + self.training, log_det


class IgnoresItsContext(AffineCoupling):
    def map_with_slope(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().map_with_slope(x, torch.zeros(len(x), self.context).to(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().inverse(z, torch.zeros(len(z), self.context).to(z))


BROKEN: dict[str, tuple[Callable[[], Bijection], str]] = {
    "declares no constant log-det": (Doubled, "3 different log-dets"),
    "wrong log-det": (WrongLogDet, "not close"),
    "mixes samples": (MixesSamples, "not close|singular"),
    "changes its input": (ChangesItsInput, "not close|does not change"),
    "trains otherwise": (TrainsOtherwise, "not close"),
    "ignores its context": (lambda: IgnoresItsContext(2, 4, context=2), "gradient of context"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_layer_is_found(name: str) -> None:
    make, text = BROKEN[name]
    with pytest.raises(AssertionError, match=text):
        conformance.check(Case(name, make, ((2, 2, 3),)))


def test_the_suite_needs_neither_pytest_nor_the_tests_nor_assert_statements(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules.update(pytest=None, tests=None)\n"
        "from snf_models.bijections.conformance import Case, check\n"
        "from snf_models.bijections.coupling import AffineCoupling\n"
        "print(check(Case('coupling', lambda: AffineCoupling(4, 8, context=2), ((4, 2, 2),))))\n"
        "AffineCoupling.restore = AffineCoupling.transform\n"
        "try:\n"
        "    check(Case('wrong', lambda: AffineCoupling(4, 8), ((4, 2, 2),)))\n"
        "except AssertionError:\n"
        "    print('found')\n"
    )
    command = [sys.executable, "-O", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=unmeasured(), capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["12", "found"], 0), done.stderr


def test_every_bijection_is_in_the_table() -> None:
    found = set()
    for module in pkgutil.iter_modules(snf_models.bijections.__path__, "snf_models.bijections."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, Bijection) and not inspect.isabstract(kind):
                found.add(kind)
    found -= {Bijection, ChannelAffine, Conditional, ConstantLogDet, Elementwise, HalfCoupling}
    found -= {LinearLayer, MatrixInverse, SelfNormalizing}
    assert found == {type(case.make()) for case in CASES}


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
    "local": of_layer(lambda: SelfNormalizingLocalAffine(SMALL, 2)),
    "coupling": of_products,
    "recomputed": lambda x: apply_layers([SelfNormalizingConv1x1(2).double()], x, recompute=True)[0].square().sum(),
}


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_second_derivatives_are_refused(loss: Callable[[Tensor], Tensor]) -> None:
    x = normal(3, *SMALL, seed=0).requires_grad_()
    torch.autograd.backward(loss(x))
    with pytest.raises(RuntimeError, match=r"create_graph=True in \w+\.backward"):
        torch.autograd.backward(loss(x), create_graph=True)


def test_a_coupling_needs_two_channels() -> None:
    with pytest.raises(ValueError, match="at least 2 channels to couple, got 1"):
        PlaceCoupling((1, 3, 3), 8)


@torch.no_grad()
def test_a_place_coupling_shifts_alike_inputs_by_their_place() -> None:
    layer = PlaceCoupling((2, 5, 5), 8).eval()
    x = torch.ones(1, 2, 5, 5)
    assert torch.equal(layer(x)[0], x), "it starts as the identity"
    randomise(layer, 0.5)
    assert layer(x)[0][0, 1].flatten().unique().numel() == 25


@pytest.mark.parametrize("alpha", [0.0, -1e-6, 0.5, 2.0, float("nan")])
def test_logit_refuses_alpha_outside_its_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"expected alpha in \(0, 0.5\), got"):
        LogitPixels(alpha)


class TestActNormInitialisation:
    """What only ActNorm does: learn from a first batch, once."""

    def test_refuses_to_work_before_it(self) -> None:
        x = torch.zeros(2, 3, 4, 4)
        for direction in (ActNorm(3).eval().forward, ActNorm(3).train().forward, ActNorm(3).inverse):
            with pytest.raises(UninitializedModel, match="not initialised"):
                direction(x)

    def test_normalises_the_batch_it_sees(self) -> None:
        layer = ActNorm(3)
        x = 5 + 3 * torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        layer.initialize(x)
        std, mean = torch.std_mean(layer(x)[0], dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(std, torch.ones(3), rtol=0, atol=1e-5)

    def test_a_constant_channel_or_a_single_value_stays_finite(self) -> None:
        layer = ActNorm(2)
        layer.initialize(torch.full((1, 2, 1, 1), 7.0))
        z, log_det = layer(torch.full((1, 2, 1, 1), 7.0))
        assert (z == 0).all()
        assert (log_det == 0).all()

    def test_a_loaded_one_is_never_initialised_again(self) -> None:
        trained = ActNorm(2)
        trained.initialize(torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
        loaded = ActNorm(2)
        loaded.load_state_dict(trained.state_dict())
        x = torch.ones(4, 2, 3, 3) * 100
        assert torch.equal(loaded(x)[0], trained(x)[0])


def test_reconstruction_error_is_handed_over_once() -> None:
    layer = SelfNormalizingConv1x1(3).train()
    with pytest.raises(RuntimeError, match="expected a forward pass in training mode"):
        layer.pop_reconstruction_error()
    layer(torch.randn(4, 3, 2, 2))
    assert layer.pop_reconstruction_error().shape == (4,)
    with pytest.raises(RuntimeError, match="expected a forward pass in training mode"):
        layer.pop_reconstruction_error()


@pytest.mark.parametrize("name", ["affine", "logit", "marginal"])
@torch.no_grad()
def test_pixel_transforms_keep_every_pixel_within_a_hundredth_of_a_bin(name: str) -> None:
    transforms: dict[str, Bijection] = {"affine": AffinePixels(), "logit": LogitPixels(), "marginal": marginal_pixels()}
    edges = torch.arange(256, dtype=torch.float64)
    x = torch.cat([edges, edges + 0.5, edges + 1 - 1e-9]).view(1, 1, 32, 24)
    z = transforms[name](x)[0]
    assert (transforms[name].inverse(z)[0] - x).abs().max() < 1e-6
    # Between flow and transform a float32 stands in training; a bin still survives it.
    assert (transforms[name].inverse(z.float().double())[0] - x).abs().max() < 0.01


def test_logit_transform_has_the_published_sum_on_digits() -> None:
    """Keller et al. 2021: all pre-processing log-dets of MNIST sum to 272.7 nats, standard error of a set below 5."""
    images = real_images(400)
    log_det = LogitPixels()(torch.from_numpy(images + np.random.default_rng(0).random(images.shape)))[1]
    assert abs(float(log_det.mean()) - 272.7) < 4 * float(log_det.std()) / 20


def test_squeeze_order_of_channels() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[[0.0, 2], [8, 10]], [[1, 3], [9, 11]], [[4, 6], [12, 14]], [[5, 7], [13, 15]]])
    assert torch.equal(Squeeze()(x)[0][0], expected)
