"""Fits of Gaussians and Gaussian mixtures to samples, by scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.density.gaussian import Gaussian
from snf_runtime.anomaly.density.mixture import Mixture

Array = NDArray[np.float64]

MAX_COMPONENTS = 5
MIN_SPREAD = 1e-9


def fit_gaussian(samples: Array) -> Gaussian:
    """Fit a Gaussian with a covariance shrunk towards the identity (Ledoit & Wolf 2004)."""
    values, vectors = np.linalg.eigh(shrunk_covariance(samples - samples.mean(0)))
    root = (vectors / np.sqrt(values)) @ vectors.T
    return Gaussian(samples.mean(0), root)


def fit_mixture(samples: Array, images_a_component: int, regularisation: float, images: int | None = None) -> Mixture:
    """Fit one to five Gaussians by the number of ``images`` (None: n); a single one is shrunk by Ledoit-Wolf."""
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415 - only fitting needs it, and it takes time to load

    location, scale = samples.mean(0), np.maximum(samples.std(0), MIN_SPREAD)
    u = (samples - location) / scale
    count = min(MAX_COMPONENTS, (len(samples) if images is None else images) // images_a_component)
    if count < 2:
        gaussian = fit_gaussian(u)
        return Mixture(location, scale, np.zeros(1), gaussian.mean[None], gaussian.root[None])
    fit = GaussianMixture(count, reg_covar=regularisation, n_init=2, random_state=0).fit(u)
    return Mixture(location, scale, np.log(fit.weights_), fit.means_, fit.precisions_cholesky_)


def shrunk_covariance(centred: Array) -> Array:
    """Return the Ledoit-Wolf covariance of centred samples, which always has an inverse."""
    from sklearn.covariance import ledoit_wolf_shrinkage  # noqa: PLC0415 - only fitting needs it, and it loads slowly

    # The function that also shrinks checks settings and samples four times, which takes longer than all arithmetic.
    shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
    images, size = centred.shape
    covariance: Array = np.dot(centred.T, centred) / images if size > 1 else np.atleast_2d(np.square(centred).mean())
    identity = np.eye(size) * (np.trace(covariance) / size)
    covariance = (1.0 - shrinkage) * covariance + shrinkage * identity
    smallest = 1e-9 * max(float(np.trace(covariance)) / len(covariance), 1e-9)
    return covariance + smallest * np.eye(len(covariance))
