"""Pixel transforms in NumPy against those of torch, which are trained, and against SciPy's normal distribution."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from snf_models.bijections.base import Elementwise
from snf_models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from snf_models.datasets import load_dataset
from snf_runtime.scoring.layout import DEVIATIONS, MEANS, SQUASH, MarginalFunction

ROUNDING = 1e-15
"""Of a distribution function near 1, which no form of the transform can be better than."""
EDGES = np.array([0.0, 1e-12, 1e-9, 0.5, 1 - 1e-12, 1.0, 127.0, 128.5, 255.0, 255.5, 256 - 1e-9, np.nextafter(256, 0)])


def pixel_values() -> NDArray[np.float64]:
    inner = np.random.default_rng(0).uniform(0, 256, 20_000)
    return np.concatenate([EDGES, inner]).reshape(1, 1, 1, -1)


def marginal(kind: str) -> MarginalPixels:
    pixels = MarginalPixels()
    if kind == "digits":
        pixels.fit(load_dataset("mnist-mini", None).train)
    elif kind == "black":
        pixels.fit(np.zeros((1, 1, 4, 4), dtype=np.uint8))
    return pixels


def mixture(masses: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distribution function and density of the mixture of normals, by SciPy."""
    weights = masses[0], 1 - masses[0] - masses[-1], masses[-1]
    distribution, density = np.zeros_like(y), np.zeros_like(y)
    for weight, mean, deviation in zip(weights, MEANS, DEVIATIONS, strict=True):
        u = (y - mean) / deviation
        distribution += weight * ndtr(u)
        density += weight * np.exp(-0.5 * u**2) / (deviation * np.sqrt(2 * np.pi))
    return distribution, density


@pytest.mark.parametrize("pixels", [AffinePixels(), LogitPixels(), LogitPixels(0.05)], ids=["affine", "logit", "wide"])
def test_affine_and_logit(pixels: AffinePixels | LogitPixels) -> None:
    x = pixel_values()
    expected = pixels.map_with_slope(torch.from_numpy(x))
    for got, want in zip(pixels.pixel_function().map_with_slope(x), expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["uniform", "digits", "black"])
def test_marginal_agrees_with_torch(kind: str) -> None:
    pixels, x = marginal(kind), pixel_values()
    expected = [part.numpy() for part in pixels.map_with_slope(torch.from_numpy(x))]
    _, density = mixture(pixels.masses.numpy(), expected[0])
    for got, want in zip(pixels.pixel_function().map_with_slope(x), expected, strict=True):
        assert (np.abs(got - want) <= 1e-10 + ROUNDING / density).all()


@pytest.mark.parametrize("kind", ["uniform", "digits", "black"])
def test_marginal_solves_its_equation(kind: str) -> None:
    """G(y) = F(x), with SciPy's distribution function, and dy/dx = F'(x) / G'(y)."""
    function, x = marginal(kind).pixel_function(), pixel_values()
    assert isinstance(function, MarginalFunction)
    y, log_slope = function.map_with_slope(x)
    masses = function.masses
    distribution, density = mixture(masses, y)
    bins = np.floor(x).astype(int)
    edges = np.concatenate([[0.0], np.cumsum(masses)])
    edges /= edges[-1]
    share = SQUASH + (1 - 2 * SQUASH) * (edges[bins] + np.diff(edges)[bins] * (x - bins))
    assert (np.abs(distribution - share) <= 1e-10 * density + ROUNDING).all()
    np.testing.assert_allclose(log_slope, np.log((1 - 2 * SQUASH) * np.diff(edges)[bins] / density), atol=1e-10)


def test_values_do_not_depend_on_their_company() -> None:
    function, x = marginal("digits").pixel_function(), pixel_values()
    together = function.map_with_slope(x)
    for start in (0, 1, 1000, 20_011):
        for got, want in zip(function.map_with_slope(x[..., start : start + 1]), together, strict=True):
            assert got[0, 0, 0, 0] == want[0, 0, 0, start]


class Doubled(Elementwise):
    """y = x / 128 - 1, a pixel transform without a function of arrays, as a user may write one."""

    def map_with_slope(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x / 128 - 1, torch.full_like(x, -np.log(128))

    def inverse(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 128 * (z + 1), torch.full((len(z),), np.log(128))


def test_a_pixel_transform_of_its_own_runs_as_it_is() -> None:
    y, log_slope = Doubled().pixel_function().map_with_slope(np.array([64.0, 192.0]))
    np.testing.assert_allclose(y, [-0.5, 0.5])
    np.testing.assert_allclose(log_slope, -np.log(128))
