"""Gaussians and mixtures of them against scikit-learn and scipy."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture

from snf_models.anomaly.statistic_densities import MAX_COMPONENTS, fit_gaussian, fit_mixture, shrunk_covariance

Array = NDArray[np.float64]


def samples(count: int, dimensions: int = 6, seed: int = 0) -> Array:
    """Correlated, of very different scales, from two clusters."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(dimensions, dimensions))
    found: Array = generator.standard_normal((count, dimensions)) @ mixing
    found[: count // 3] += 4 * mixing[0]
    return found * 10.0 ** np.linspace(-2, 2, dimensions) + 7


@pytest.mark.parametrize("count", [4, 30, 1000])
def test_covariance_is_ledoit_and_wolfs(count: int) -> None:
    x = samples(count)
    got = shrunk_covariance(x - x.mean(0))
    ridge = 1e-8 * np.abs(got).max()
    np.testing.assert_allclose(got, LedoitWolf().fit(x).covariance_, rtol=1e-9, atol=ridge)
    assert np.linalg.eigvalsh(got).min() > 0


@pytest.mark.parametrize("count", [10, 500])
def test_squares_of_components_add_up_to_the_mahalanobis_distance(count: int) -> None:
    x = samples(count)
    gaussian = fit_gaussian(x)
    new = samples(20, seed=1)
    inverse = np.linalg.inv(shrunk_covariance(x - x.mean(0)))
    expected = [mahalanobis(row, x.mean(0), inverse) ** 2 for row in new]
    np.testing.assert_allclose(np.square(gaussian.components(new)).sum(1), expected, rtol=1e-6)


def test_components_are_white_and_belong_to_their_coordinates() -> None:
    x = samples(20_000, 4)
    x = (x - x.mean(0)) / x.std(0)
    w = fit_gaussian(x).components(x)
    np.testing.assert_allclose(w.T @ w / len(w), np.eye(4), atol=0.02)
    # The symmetric root: no other whitening is as close to the coordinates themselves (Kessy et al. 2018).
    cross = x.T @ w / len(x)
    np.testing.assert_allclose(cross, cross.T, atol=1e-9)
    assert (np.linalg.eigvalsh(cross) > 0).all()


def test_constant_and_dependent_columns_are_no_singularity() -> None:
    x = samples(100, 3)
    x = np.column_stack([x, x[:, 0], np.full(100, 2.0)])
    gaussian = fit_gaussian(x)
    assert np.isfinite(gaussian.components(x)).all()
    assert np.isfinite(gaussian.components(x + 1)).all()


@pytest.mark.parametrize("components", [2, 3, 5])
@pytest.mark.parametrize("regularisation", [1e-2, 1e-3])
def test_surprisal_of_several_components_is_sklearns(components: int, regularisation: float) -> None:
    x = samples(200 * components)
    mixture = fit_mixture(x, images_a_component=200, regularisation=regularisation)
    assert len(mixture.log_weights) == components
    location, scale = x.mean(0), x.std(0)
    theirs = GaussianMixture(components, reg_covar=regularisation, n_init=2, random_state=0).fit((x - location) / scale)
    new = np.concatenate([x[:50], samples(50, seed=2), 30 * samples(5, seed=3)])
    expected = -theirs.score_samples((new - location) / scale)
    np.testing.assert_allclose(mixture.surprisal(new), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [3, 40, 399])
def test_few_images_have_one_component_with_a_shrunk_covariance(count: int) -> None:
    x = samples(count)
    mixture = fit_mixture(x, images_a_component=200, regularisation=1e-3)
    assert len(mixture.log_weights) == 1
    u = (x - x.mean(0)) / x.std(0)
    expected = -multivariate_normal(np.zeros(6), shrunk_covariance(u)).logpdf(u)
    np.testing.assert_allclose(mixture.surprisal(x), expected, rtol=1e-6)


def test_at_most_five_components() -> None:
    assert len(fit_mixture(samples(800, 2), images_a_component=100, regularisation=1e-2).log_weights) == MAX_COMPONENTS


def test_fits_are_reproducible_and_rows_do_not_know_each_other() -> None:
    x = samples(600)
    one, other = (fit_mixture(x, images_a_component=200, regularisation=1e-2) for _ in range(2))
    assert np.array_equal(one.roots, other.roots)
    together = one.surprisal(x)
    alone = np.concatenate([other.surprisal(row[None]) for row in x])
    np.testing.assert_allclose(alone, together, rtol=1e-12)
