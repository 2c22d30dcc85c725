"""What single layers do besides the contract of all bijections: couplings, ActNorm, pixel transforms, the squeeze."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import ActNorm, SelfNormalizingConv1x1, Squeeze
from snf_models.bijections.conformance import randomise
from snf_models.bijections.coupling import PlaceCoupling
from snf_models.bijections.pixels import AffinePixels, LogitPixels
from snf_models.errors import UninitializedModel
from tests.models.bijections.test_conformance import marginal_pixels
from tests.models.helpers import real_images


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
