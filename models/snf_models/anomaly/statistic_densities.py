"""Fit of the anomaly statistic: densities of several groups of image statistics, fitted to normal images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.statistics import (
    Conditioning,
    DensityView,
    FeatureGroup,
    Gaussian,
    HeldOutSurprises,
    Mixture,
    RegionGroup,
    Statistic,
    Tail,
    WholeImageGroup,
    all_regions,
    log_extremes,
    tail_surprises,
    total_surprise,
    z_scores,
)
from snf_runtime.scoring.evidence import ENERGY, PIXEL_TERM, Evidence, Region, is_channel_statistic, members

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


HELD_OUT_FOLDS = 5  # folds of the reference images, each measured by groups of statistics that are fitted to the others
FEW = 2000
"""Images below which survival functions come from folds: a density is too high at the images that it was fitted to."""
FLAT = 0.1  # smallest standard deviation of a cell, as a share of the median over the cells
ROUNDING_NOISE = np.log(1e-12)
"""Log of the relative squared error below which a learned inverse is exact to its float32 weights."""
COLOUR_ENERGIES = 6
"""Fewest energies of level 1 over colour images: half of 3 x 4 channels. Over grey images there are at most 4."""
SHARES_OF_GREY, SHARES_OF_COLOUR = (2.0, 2.0, 2.0, 1.0), (1.0, 1.0, 2.0, 2.0)
"""Factors of the surprises of the four densities. The channels of grey images tell little that neighbours do not."""
CONSTANT = 1e-12  # largest standard deviation of a statistic that carries no information


def fit_statistic(evidence: Evidence, names: Sequence[str], grid: tuple[int, int] | None, few: int = FEW) -> Statistic:
    """Fit densities to the groups of statistics, and weigh down or measure anew those that overfit."""
    # Statistics of pixels have many parameters: new images surprise them more than those that they were fitted to, and
    # the most overfitted group would hide all others.
    if evidence.features is not None:
        fitted = _fit(evidence, names, grid)
        if len(fitted.kinds) == 1:
            return fitted
        surprises = _on_held_out(evidence, names, grid, Statistic.group_surprises)
        # Few images tell little of how overfitted statistics of pixels are: on splits of the same cells, 150 images
        # each, the measured inflation is 1.2 to 41.
        of_pixels = max(1.0, few / len(evidence))
        least = np.array([1.0 if kind == "features" else of_pixels for kind in fitted.kinds])
        return replace(fitted, held_out=HeldOutSurprises.fit(surprises, least))
    if not names or not 2 * HELD_OUT_FOLDS <= len(evidence) < few:
        return _fit(evidence, names, grid)
    # All fits choose knots and components alike, by the images of a fit to all folds but one.
    of_fold = len(evidence) - math.ceil(len(evidence) / HELD_OUT_FOLDS)
    fitted = _fit(evidence, names, grid, of_fold)
    assert fitted.whole is not None
    held_out = _on_held_out(evidence, names, grid, _surprisals_and_extremes, of_fold)
    surprisals, extremes = np.split(held_out, [len(fitted.whole.views)], axis=1)
    whole = _with_tails(fitted.whole, surprisals)
    if fitted.local is None:
        return replace(fitted, whole=whole)
    tails, joint = _region_tails(extremes)
    return replace(fitted, whole=whole, local=replace(fitted.local, tails=tails, joint=joint))


def fit_local(cells: Array, complexity: Array, grid: tuple[int, int], images: int | None = None) -> RegionGroup:
    """Fit the model of cells, in nats; ``images`` (None: n) decides how complex it is."""
    deviation = cells.std(0)
    location, scale = cells.mean(0), np.maximum(deviation, max(FLAT * float(np.median(deviation)), MIN_SPREAD))
    standardised = (cells - location) / scale
    precision = np.linalg.inv(shrunk_covariance(standardised)).astype(np.float64)
    of_shapes = [list(group) for _, group in itertools.groupby(all_regions(grid), key=Region.shape)]
    predictors = [_predictors(group, grid[1], precision, scale) for group in of_shapes]
    weights = np.ascontiguousarray(np.concatenate(predictors).T)
    spread = np.maximum((standardised @ weights).std(0), MIN_SPREAD)
    narrow = (weights / spread).astype(np.float32)
    extremes = log_extremes(standardised @ narrow.astype(np.float64), grid)
    conditioning = Conditioning.fit(extremes, complexity, images)
    z = conditioning(extremes, complexity)
    tails, joint = _region_tails(z)
    return RegionGroup(np.array(grid), location, scale, narrow, conditioning, tails, joint)


def fit_whole(statistics: Array, names: Sequence[str], images: int | None = None) -> WholeImageGroup:
    """Fit the densities of whole-image statistics; column 0 is complexity. ``images``: see :func:`fit_local`."""
    used = np.array([i for i, name in enumerate(names) if i and _informs(name, statistics[:, i])], dtype=np.int64)
    complexity = statistics[:, 0]
    location, scale = np.atleast_1d(complexity.mean()), np.atleast_1d(max(float(complexity.std()), 1e-9))
    conditioning = Conditioning.fit(statistics[:, used], complexity, images)
    standardised = z_scores(statistics, used, location, scale, conditioning)
    kind = [0, names.index(PIXEL_TERM), *_named(names, "volume-")]
    layout = [*kind, *_named(names, "unevenness-")]
    of_channels = [index for index, name in enumerate(names) if is_channel_statistic(name)]
    views = [fit_view(statistics, kind, images_a_component=200, regularisation=1e-3, images=images)]
    larger = [layout, [0, *(index for index in used if index not in of_channels)]]
    shares = None
    if of_channels:
        is_colour = len(_named(names, f"{ENERGY}-1-")) >= COLOUR_ENERGIES
        shares = np.array(SHARES_OF_COLOUR if is_colour else SHARES_OF_GREY)
        larger.append([0, *_named(names, "horizontal-"), *_named(names, "vertical-"), *of_channels])
    views += [
        fit_view(statistics, columns, images_a_component=500, regularisation=1e-2, images=images) for columns in larger
    ]
    joint = Tail.fit(total_surprise(np.stack([view.surprise(statistics) for view in views], 1), shares))
    gaussian = fit_gaussian(standardised)
    return WholeImageGroup(used, location, scale, conditioning, gaussian, tuple(views), joint, shares)


def fit_view(
    statistics: Array, columns: Sequence[int], images_a_component: int, regularisation: float, images: int | None
) -> DensityView:
    chosen = np.array(columns, dtype=np.int64)
    density = fit_mixture(statistics[:, chosen], images_a_component, regularisation, images)
    return DensityView(chosen, density, Tail.fit(density.surprisal(statistics[:, chosen])))


def _fit(
    evidence: Evidence, names: Sequence[str], grid: tuple[int, int] | None, images: int | None = None
) -> Statistic:
    local = None if grid is None else fit_local(evidence.cells, evidence.whole[:, 0], grid, images)
    features = None if evidence.features is None else FeatureGroup.fit(evidence.features)
    fitted = Statistic(None, local, features)
    if not names:
        return fitted
    return replace(fitted, whole=fit_whole(fitted.statistics(evidence), fitted.names(names), images))


def _on_held_out(
    evidence: Evidence,
    names: Sequence[str],
    grid: tuple[int, int] | None,
    measure: Callable[[Statistic, Evidence], Array],
    images: int | None = None,
) -> Array:
    """Return what fits to the other folds measure of each fold, ``(n, columns)``; ``images``: see :func:`fit_local`."""
    # Folds are blocks: neighbours may show the same part.
    folds = np.arange(len(evidence)) * HELD_OUT_FOLDS // len(evidence)
    fits = (_fit(evidence[folds != fold], names, grid, images) for fold in range(HELD_OUT_FOLDS))
    return np.concatenate([measure(fit, evidence[folds == fold]) for fold, fit in enumerate(fits)])


def _surprisals_and_extremes(statistic: Statistic, evidence: Evidence) -> Array:
    """Return -ln of each density of whole-image statistics in nats, then the standardised extremes of regions."""
    assert statistic.whole is not None
    surprisals = statistic.whole.surprisals(statistic.statistics(evidence))
    local = statistic.local
    if local is None:
        return surprisals
    extremes = log_extremes(local.deviations(evidence.cells), local.shape)
    return np.concatenate([surprisals, local.conditioning(extremes, evidence.whole[:, 0])], 1)


def _with_tails(family: WholeImageGroup, surprisals: Array) -> WholeImageGroup:
    columns = surprisals.T
    views = tuple(replace(view, tail=Tail.fit(column)) for view, column in zip(family.views, columns, strict=True))
    surprises = np.stack([view.tail.surprise(column) for view, column in zip(views, columns, strict=True)], 1)
    return replace(family, views=views, joint=Tail.fit(total_surprise(surprises, family.shares)))


def _region_tails(z: Array) -> tuple[tuple[Tail, ...], Tail]:
    """Return the survival function of each extreme of regions, ``(n, extremes)``, and of their largest surprise."""
    tails = tuple(Tail.fit(column) for column in z.T)
    return tails, Tail.fit(tail_surprises(z, tails).max(1))


def _predictors(regions: Sequence[Region], columns: int, precision: Array, scale: Array) -> Array:
    """Return w' C P_B / sqrt(w' C w) of :class:`RegionGroup` for cells divided by w, ``(regions, cells)``."""
    inside = members(regions, columns)
    deviations = scale[inside]
    weights = np.linalg.solve(precision[inside[:, :, None], inside[:, None]], deviations[:, :, None])
    spreads = np.sqrt(deviations[:, None] @ weights)
    return (weights.transpose(0, 2, 1) @ precision[inside] / spreads)[:, 0]


def _named(names: Sequence[str], start: str) -> list[int]:
    return [index for index, name in enumerate(names) if name.startswith(start)]


def _informs(name: str, values: Array) -> bool:
    if name.startswith("reconstruction-") and np.median(values) < ROUNDING_NOISE:
        return False
    return bool(values.std() > CONSTANT)
