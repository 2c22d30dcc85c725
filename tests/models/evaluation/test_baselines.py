"""Trivial scores by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from snf_models.evaluation.baselines import NAMES, Baselines, PrincipalComponents, intensity_moments, png_sizes
from tests.models.helpers import real_images


def test_moments_are_scipys_and_one_colour_has_none() -> None:
    images = real_images(5, 16, 3)
    images[0, 1] = 7
    found = intensity_moments(images)
    flat = images.reshape(5, 3, -1).astype(float)
    assert found.shape == (5, 12)
    assert found[1:, :3] == pytest.approx(flat.mean(2)[1:])
    assert found[1:, 3:6] == pytest.approx(flat.std(2)[1:])
    assert found[1:, 6:9] == pytest.approx(stats.skew(flat[1:], axis=2))
    assert found[1:, 9:] == pytest.approx(stats.kurtosis(flat[1:], axis=2))
    assert found[0, [1, 4, 7, 10]].tolist() == [7, 0, 0, 0]


def test_the_distance_is_that_of_the_whole_covariance() -> None:
    """Of probabilistic PCA: V diag(λ - σ²) V' + σ² I."""
    images = real_images(120, 8)
    found = PrincipalComponents.fit(images)
    flat = images.reshape(120, -1) - found.mean
    covariance = found.vectors.T @ np.diag(found.variances - found.noise) @ found.vectors + found.noise * np.eye(64)
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", flat, np.linalg.inv(covariance), flat))
    assert found(images) == pytest.approx(wanted)


def test_large_images_are_averaged_first() -> None:
    images = np.repeat(np.repeat(real_images(20, 28), 3, 2), 3, 3)
    found = PrincipalComponents.fit(images)
    assert found.block == 2
    assert found.vectors.shape[1] == 42 * 42
    assert np.isfinite(found(images)).all()


def test_each_baseline_sees_what_it_is_for() -> None:
    images = real_images(200, 28)
    log_likelihoods = np.random.default_rng(0).normal(-600, 50, 200)
    baselines = Baselines.fit(images[:100], log_likelihoods[:100])
    normal = baselines(images[100:], log_likelihoods[100:])
    assert normal.shape == (100, len(NAMES))
    noise = np.random.default_rng(1).integers(0, 256, (10, 1, 28, 28)).astype(np.uint8)
    assert png_sizes(noise).min() > png_sizes(images).max()
    strange = baselines(noise, np.full(10, 0.0))
    low, two_sided, *others = range(len(NAMES))
    assert (strange[:, low] < normal[:, low].min()).all(), "likelier images are less strange to it"
    for number in (two_sided, *others):
        assert strange[:, number].min() > normal[:, number].max(), NAMES[number]
