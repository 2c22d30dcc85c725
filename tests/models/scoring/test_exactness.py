"""Scores of the frozen engine against the change of variables done by hand, and against themselves elsewhere."""

import math
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snf_models.bijections.channels import ActNorm, SelfNormalizingConv1x1
from snf_models.bijections.conformance import jacobian_log_det, randomise
from snf_models.datasets import load_dataset
from snf_models.errors import ScoreNotFinite
from snf_models.flows.architecture import PixelTransform
from snf_models.flows.flow import Flow
from snf_models.loading.trained import load_artifact
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineName, EngineOptions
from snf_models.scoring.frozen import FlowEngine, FrozenFlow, constant_log_dets, freeze
from snf_models.scoring.open_density import open_engine
from snf_models.scoring.torch_engine import TorchEngine
from snf_runtime.scoring.density import Latents
from snf_runtime.scoring.evidence import run_flow
from snf_runtime.scoring.likelihood import Likelihood, score_each, score_images
from snf_runtime.scoring.pixel_density import PixelDensity, content_noise
from tests.models.helpers import (
    dequantised,
    flat_latents,
    frozen_glow,
    glow,
    images_back,
    real_images,
    scores_of,
    transformed,
)

FLOAT32 = 1e-3
"""Nats between the engine, whose networks run in float32, and float64."""
ELSEWHERE = 1e-4
"""Nats between the same image in one company and in another."""

SHAPES: list[tuple[int, int, PixelTransform]] = [
    (8, 1, "affine"),
    (8, 2, "logit"),
    (8, 3, "marginal"),
    (16, 1, "logit"),
    (16, 1, "marginal"),
]
EVERY_FLOW = pytest.mark.parametrize(
    ("side", "channels", "pixels"), SHAPES, ids=[f"{c}x{s}x{s}-{p}" for s, c, p in SHAPES]
)

EVERY_ENGINE = pytest.mark.parametrize("name", ["torch", "openvino"])


def opened(side: int, channels: int, pixels: PixelTransform, name: EngineName) -> tuple[Flow, FrozenFlow, FlowEngine]:
    """A random Glow that a test may change, the same frozen, and an engine of that."""
    flow, frozen, engine = _compiled(side, channels, pixels)
    return deepcopy(flow), frozen, engine if name == "openvino" else TorchEngine(frozen)


@cache
def _compiled(side: int, channels: int, pixels: PixelTransform) -> tuple[Flow, FrozenFlow, FlowEngine]:
    return frozen_glow(side, channels, pixels, "openvino")


@EVERY_FLOW
def test_engines_agree_with_the_jacobian_of_the_unfrozen_flow(side: int, channels: int, pixels: PixelTransform) -> None:
    flow, frozen, engine = opened(side, channels, pixels, "openvino")
    engines = engine, TorchEngine(frozen)
    assert [one.name for one in engines] == ["openvino", "torch"]
    x = dequantised(real_images(2 if side == 8 else 1, side, channels))
    scores = [scores_of(one, frozen, x) for one in engines]
    flow.double().requires_grad_(False)
    latents = flat_latents(flow, x)
    base = -0.5 * latents.square().sum(1) - 0.5 * x[0].numel() * math.log(2 * math.pi)
    log_det = jacobian_log_det(lambda sample: flat_latents(flow, sample), x)
    assert (base.abs() > 1).all()
    assert (log_det.abs() > 1).all()
    for got in scores:
        torch.testing.assert_close(got, base + log_det, rtol=0, atol=FLOAT32)
    # The unfrozen flow's own log-dets, all in float64, are those of its Jacobian far closer.
    torch.testing.assert_close(flow(x).log_likelihood, base + log_det, rtol=0, atol=1e-7)


@EVERY_ENGINE
@EVERY_FLOW
@torch.no_grad()
def test_freezing_changes_nothing(side: int, channels: int, pixels: PixelTransform, name: EngineName) -> None:
    flow, frozen, engine = opened(side, channels, pixels, name)
    x = dequantised(real_images(6, side, channels))
    latents = engine.forward(transformed(frozen, x))
    terms = run_flow(engine, frozen, x.numpy()).terms()
    expected = flow.double()(x)
    for got, want in zip(latents.scales, expected.latents, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    assert terms.shape[1] == len(expected.terms)
    for index, term in enumerate(expected.terms):
        np.testing.assert_allclose(terms[:, index, 0], term.log_prior, rtol=0, atol=FLOAT32)
        np.testing.assert_allclose(terms[:, index, 1], term.log_det, rtol=0, atol=FLOAT32)
    assert [tuple(scale.shape[1:]) for scale in latents.scales] == frozen.latent_shapes()


@EVERY_ENGINE
@EVERY_FLOW
@torch.no_grad()
def test_inverse_of_forward_is_within_a_hundredth_of_a_bin(
    side: int, channels: int, pixels: PixelTransform, name: EngineName
) -> None:
    flow, frozen, engine = opened(side, channels, pixels, name)
    x = dequantised(real_images(32, side, channels))
    scales = engine.forward(transformed(frozen, x)).scales
    back = images_back(engine, frozen, scales)
    assert (back - x).abs().max() < 0.01
    # An image of a latent lies on that latent again.
    again = flow.double().inverse(flow(x).latents)
    assert (again - x).abs().max() < 1e-5


@EVERY_ENGINE
@torch.no_grad()
def test_learned_inverse_uses_r(name: EngineName) -> None:
    flow = glow(16)
    for module in flow.modules():
        if isinstance(module, SelfNormalizingConv1x1):
            module.inverse_weight.copy_(torch.linalg.inv(module.weight) + 1e-3)
    frozen = freeze(flow, (1, 16, 16))
    engine = open_engine(frozen, EngineOptions(name))
    x = dequantised(real_images(4, 16))
    scales = engine.forward(transformed(frozen, x)).scales
    learned = images_back(engine, frozen, scales, "learned")
    expected = flow.double().inverse([torch.from_numpy(scale) for scale in scales], learned=True)
    torch.testing.assert_close(learned, expected, rtol=0, atol=1e-2)
    assert (learned - x).abs().max() > 0.1
    assert not freeze(glow(16, linear="exact"), (1, 16, 16)).has_learned_inverse


def test_log_dets_are_those_of_these_weights() -> None:
    flow = glow(16)
    before = constant_log_dets(flow, (1, 16, 16))
    assert set(before) == {f"levels.{level}.steps.{step}" for level in (0, 1) for step in (0, 1, 3, 4)}
    for name, value in before.items():
        layer = flow.get_submodule(name)
        locations = 64 if name.startswith("levels.0") else 16
        if isinstance(layer, ActNorm):
            expected = -locations * float(layer.log_scale.detach().double().sum())
        else:
            expected = locations * float(torch.linalg.slogdet(layer.weight.double()).logabsdet)
        assert value == pytest.approx(expected, abs=1e-10)
    frozen = freeze(flow, (1, 16, 16), before)
    randomise(flow, 0.1, seed=9)
    after = constant_log_dets(flow, (1, 16, 16))
    assert all(after[name] != before[name] for name in before)
    assert [level.constant_log_det for level in frozen.levels] != [
        level.constant_log_det for level in freeze(flow, (1, 16, 16)).levels
    ]


def test_a_frozen_flow_does_not_follow_later_training() -> None:
    flow, frozen, engine = frozen_glow(8, 1, "marginal")
    x = dequantised(real_images(2, 8))
    before = run_flow(engine, frozen, x.numpy()).terms()
    randomise(flow, 0.3, seed=9)
    with torch.no_grad():
        for buffer in flow.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.ones_like(buffer) / buffer.numel())
    np.testing.assert_array_equal(run_flow(engine, frozen, x.numpy()).terms(), before)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return load_dataset("mnist-mini", None).test[:64]


@pytest.fixture(scope="module")
def together(scorer: Scorer, images: NDArray[np.uint8]) -> list[Likelihood]:
    return scorer.score(images)


def largest_difference(left: list[Likelihood], right: list[Likelihood]) -> float:
    return max(abs(a.log_likelihood - b.log_likelihood) for a, b in zip(left, right, strict=True))


class TestLikelihood:
    """The parts of an answer."""

    def test_terms_sum_to_it_and_begin_with_the_pixels(self, scorer: Scorer, together: list[Likelihood]) -> None:
        for result in together:
            assert [term.scale for term in result.terms] == [0, 1, 2]
            assert result.terms[0].log_prior == 0
            total = sum(term.log_prior + term.log_det for term in result.terms)
            assert total == pytest.approx(result.log_likelihood, rel=1e-6)
            assert result.bits_per_dim == pytest.approx(-result.log_likelihood / (784 * math.log(2)), rel=1e-12)
            assert result.kind == "density"
            assert result.draws is None
        assert scorer.density.constant_log_det == pytest.approx(scorer.manifest.log_dets.total)

    def test_it_is_the_density_at_the_point_of_the_first_draw(
        self, artifact: Path, scorer: Scorer, images: NDArray[np.uint8], together: list[Likelihood]
    ) -> None:
        flow = load_artifact(artifact).flow.double()
        noise = np.stack([content_noise(image, scorer.log_det_digest)[0] for image in images[:5]])
        assert noise.min() >= 0
        assert noise.max() < 1
        with torch.no_grad():
            expected = flow(torch.from_numpy(images[:5] + noise)).log_likelihood
        for value, result in zip(expected.tolist(), together, strict=False):
            assert abs(value - result.log_likelihood) <= FLOAT32

    def test_draws(self, scorer: Scorer, images: NDArray[np.uint8], together: list[Likelihood]) -> None:
        one, four, eight = (scorer.score(images[:3], draws=k) for k in (1, 4, 8))
        assert largest_difference(one, together[:3]) <= ELSEWHERE
        for single, few, more in zip(one, four, eight, strict=True):
            assert (few.draws.k, more.draws.k) == (4, 8)
            assert few.log_likelihood == few.draws.mean
            assert few.draws.standard_error > 0
            assert few.draws.mean < few.draws.iw_bound, "log of a mean above mean of logs"
            # All draws but the first, by the difference of sums.
            assert abs(4 * few.draws.mean - single.log_likelihood) > 0
            total = sum(term.log_prior + term.log_det for term in few.terms)
            assert total == pytest.approx(few.log_likelihood, rel=1e-6)

    def test_draws_are_a_stream(self, scorer: Scorer, images: NDArray[np.uint8]) -> None:
        """Mean, standard error and bound of K draws by hand, from the noise of the same stream."""
        noise = content_noise(images[0], scorer.log_det_digest, 4)
        assert np.array_equal(noise[:2], content_noise(images[0], scorer.log_det_digest, 2))
        x = images[0] + noise
        values = run_flow(scorer.trained.pixels.engine, scorer.trained.pixels.frozen, x).terms().sum((1, 2))
        draws = scorer.score(images[:1], draws=4)[0].draws
        assert draws.mean == pytest.approx(values.mean(), abs=ELSEWHERE)
        assert draws.standard_error == pytest.approx(values.std(ddof=1) / 2, abs=ELSEWHERE)
        bound = values.max() + math.log(np.exp(values - values.max()).mean())
        assert draws.iw_bound == pytest.approx(bound, abs=ELSEWHERE)

    def test_noise_belongs_to_pixels_shape_and_weights(self, images: NDArray[np.uint8]) -> None:
        noise = content_noise(images[0], "a")
        changed = images[0].copy()
        changed[0, 0, 0] ^= 1
        assert not np.array_equal(noise, content_noise(images[0], "b"))
        assert not np.array_equal(noise, content_noise(changed, "a"))
        reshaped = images[0].reshape(1, 14, 56)
        assert not np.array_equal(noise.ravel(), content_noise(reshaped, "a").ravel())
        assert np.array_equal(noise, content_noise(np.asfortranarray(images[0]), "a"))

    def test_noise_is_uniform(self, images: NDArray[np.uint8]) -> None:
        noise = np.stack([content_noise(image, "uniform") for image in images]).ravel()
        counts = np.histogram(noise, bins=64, range=(0, 1))[0]
        expected = len(noise) / 64
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert chi_squared < 63 + 4 * math.sqrt(2 * 63)

    def test_what_is_no_image_of_this_model_is_refused(self, scorer: Scorer, images: NDArray[np.uint8]) -> None:
        with pytest.raises(ValueError, match="expected uint8 images"):
            scorer.score(images.astype(np.float32))
        with pytest.raises(ValueError, match="expected uint8 images"):
            scorer.score(images[:, :, :27])
        with pytest.raises(ValueError, match="at least one draw, got 0"):
            scorer.score(images[:1], draws=0)
        assert scorer.score(images[:0]) == []


def test_the_size_of_a_tile_shows_in_rounding_alone() -> None:
    """Scores of this random flow are thousands of nats; a service has one size of tile, and real models hundreds."""
    flow = glow(16)
    frozen = freeze(flow, (1, 16, 16))
    batch = real_images(70, 16)
    scores = [
        [
            r.log_likelihood
            for r in score_images(PixelDensity(TorchEngine(frozen, tile), frozen, "digest"), batch, draws=2)
        ]
        for tile in (1, 3, 64)
    ]
    assert np.ptp(np.array(scores), axis=0).max() <= FLOAT32


class Overflowing(TorchEngine):
    """Overflows on the second of every three draws."""

    def forward(self, y: NDArray[np.float64]) -> Latents:
        latents = super().forward(y)
        first, *rest = latents.log_dets
        first = first.copy()
        first[1::3, 0, 0] = np.inf
        return replace(latents, log_dets=[first, *rest])


def test_an_overflow_stays_with_its_image(artifact: Path) -> None:
    scorer = load_model(artifact, options=EngineOptions("torch"))
    images = np.repeat(scorer.pinned[:1], 5, axis=0)
    images[:, 0, 0] = np.arange(5)[:, None]
    wanted = scorer.score(images)
    density = PixelDensity(
        Overflowing(scorer.trained.pixels.frozen), scorer.trained.pixels.frozen, scorer.log_det_digest
    )
    found = score_each(density, images)
    assert [isinstance(one, ScoreNotFinite) for one in found] == [False, True, False, False, True]
    assert [found[i] for i in (0, 2, 3)] == [wanted[i] for i in (0, 2, 3)]
    with pytest.raises(ScoreNotFinite):
        score_images(density, images)
