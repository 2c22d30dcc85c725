"""Fit of the anomaly statistic: densities of several groups of image statistics, fitted to normal images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.anomaly.fitting.gaussian_fits import fit_gaussian, fit_mixture, shrunk_covariance
from snf_runtime.anomaly.density.conditioning import Conditioning
from snf_runtime.anomaly.density.tails import Tail
from snf_runtime.anomaly.statistics.combined import HeldOutSurprises, Statistic
from snf_runtime.anomaly.statistics.features import FeatureFamily
from snf_runtime.anomaly.statistics.local import LocalFamily, all_regions, log_extremes, tail_surprises
from snf_runtime.anomaly.statistics.whole_image import DensityView, WholeFamily, total_surprise, z_scores
from snf_runtime.scoring.channel_statistics import ENERGY, is_channel_statistic
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.grid import Region, members
from snf_runtime.scoring.latent_statistics import PIXEL_TERM

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

HELD_OUT_FOLDS = 5
"""Folds of the reference images, each measured by groups of statistics that are fitted to the others."""
FEW = 2000
"""Images below which survival functions come from folds: a density is too high at the images that it was fitted to."""
FLAT = 0.1
"""Smallest standard deviation of a cell, as a share of the median over the cells."""
MIN_SPREAD = 1e-9
ROUNDING_NOISE = np.log(1e-12)
"""Log of the relative squared error below which a learned inverse is exact to its float32 weights."""
COLOUR_ENERGIES = 6
"""Fewest energies of level 1 over colour images: half of 3 x 4 channels. Over grey images there are at most 4."""
SHARES_OF_GREY, SHARES_OF_COLOUR = (2.0, 2.0, 2.0, 1.0), (1.0, 1.0, 2.0, 2.0)
"""Factors of the surprises of the four densities. The channels of grey images tell little that neighbours do not."""
CONSTANT = 1e-12
"""Largest standard deviation of a statistic that carries no information."""


def fit_statistic(evidence: Evidence, names: Sequence[str], grid: tuple[int, int] | None, few: int = FEW) -> Statistic:
    """Return the anomaly statistic, a measure of how unusual an image is, fitted to normal images.

    Densities are fitted to the statistics of whole images, of regions and of features, as far as the model has them.

    Statistics of pixels have many parameters. On new images their surprise is therefore larger than on those that they
    were fitted to, and the most overfitted group would hide all others. With few images the survival functions are
    therefore those of images that the densities were not fitted to.

    Statistics of features have few parameters. Where a model has both, each surprise is replaced by that of its rank
    among images that the group was not fitted to. The weight of a group is divided by the inflation of its surprise
    on such images, so that an overfitted one counts less. With n < ``few`` images those of pixels are divided by
    few / n at least.

    Args:
        evidence: The evidence of the reference images.
        names: The names of its whole-image statistics; none for a density of features alone.
        grid: Rows and columns of cells; None for a flow without spatial structure.
        few: Images below which statistics of pixels are unreliable: their survival functions come from folds, and in a
            model that also has features they have less weight.
    """
    if evidence.features is not None:
        fitted = _fit(evidence, names, grid)
        if len(fitted.kinds) == 1:
            return fitted
        surprises = _on_held_out(evidence, names, grid, Statistic.families)
        # Few images tell little of how overfitted statistics of pixels are: on splits of the same cells, 150 images
        # each, the measured inflation is 1.2 to 41.
        of_pixels = max(1.0, few / len(evidence))
        least = np.array([1.0 if kind == "features" else of_pixels for kind in fitted.kinds])
        return replace(fitted, held_out=HeldOutSurprises.fit(surprises, least))
    if not names or not _by_folds(len(evidence), few):
        return _fit(evidence, names, grid)
    of_fold = _images_of_fits(len(evidence))
    fitted = _fit(evidence, names, grid, of_fold)
    assert fitted.whole is not None
    held_out = _on_held_out(evidence, names, grid, _surprisals_and_extremes, of_fold)
    surprisals, extremes = np.split(held_out, [len(fitted.whole.views)], axis=1)
    whole = _with_tails(fitted.whole, surprisals)
    if fitted.local is None:
        return replace(fitted, whole=whole)
    tails, joint = _region_tails(extremes)
    return replace(fitted, whole=whole, local=replace(fitted.local, tails=tails, joint=joint))


def fit_local(cells: Array, complexity: Array, grid: tuple[int, int], images: int | None = None) -> LocalFamily:
    """Return a statistical model of the log-likelihoods of image regions, fitted to normal images.

    It is fitted to the log-likelihoods of grid cells.

    Args:
        cells: Log-likelihoods of grid cells, ``(n, cells)`` in nats.
        complexity: Complexities, ``(n,)``.
        grid: Rows and columns of cells.
        images: The number of images by which the complexity of the fit is chosen; None for n.
    """
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
    return LocalFamily(np.array(grid), location, scale, narrow, conditioning, tails, joint)


def fit_whole(statistics: Array, names: Sequence[str], images: int | None = None) -> WholeFamily:
    """Return probability densities fitted to whole-image statistics, such as complexity, of normal images.

    Args:
        statistics: K statistics of n images, ``(n, K)``; column 0 is image complexity.
        names: Their names.
        images: The number of images by which the complexity of the fit is chosen; None for n.
    """
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
    return WholeFamily(used, location, scale, conditioning, gaussian, tuple(views), joint, shares)


def fit_view(
    statistics: Array, columns: Sequence[int], images_a_component: int, regularisation: float, images: int | None
) -> DensityView:
    """Return a ``DensityView`` with a Gaussian mixture fitted to given columns of normal images' statistics.

    The result also has the survival function of the negative log-density on these images. ``columns`` selects columns
    of the statistics, ``(n, K)``. See :func:`fit_mixture`.
    """
    chosen = np.array(columns, dtype=np.int64)
    density = fit_mixture(statistics[:, chosen], images_a_component, regularisation, images)
    return DensityView(chosen, density, Tail.fit(density.surprisal(statistics[:, chosen])))


def _fit(
    evidence: Evidence, names: Sequence[str], grid: tuple[int, int] | None, images: int | None = None
) -> Statistic:
    local = None if grid is None else fit_local(evidence.cells, evidence.whole[:, 0], grid, images)
    features = None if evidence.features is None else FeatureFamily.fit(evidence.features)
    fitted = Statistic(None, local, features)
    if not names:
        return fitted
    return replace(fitted, whole=fit_whole(fitted.statistics(evidence), fitted.names(names), images))


def _by_folds(images: int, few: int) -> bool:
    """Return whether survival functions come from folds: of few images, but enough for folds of two."""
    return 2 * HELD_OUT_FOLDS <= images < few


def _images_of_fits(images: int) -> int:
    """Return the least images of a fit to all folds but one.

    It decides how many knots and components all fits have, also that to all images: survival functions hold for
    densities of one complexity.
    """
    return images - math.ceil(images / HELD_OUT_FOLDS)


def _on_held_out(
    evidence: Evidence,
    names: Sequence[str],
    grid: tuple[int, int] | None,
    measure: Callable[[Statistic, Evidence], Array],
    images: int | None = None,
) -> Array:
    """Return what statistics fitted to all other folds measure of the images of each fold, ``(n, columns)``.

    ``images`` is the number of images by which the complexity of the fits is chosen; None for that of each fit.
    """
    return _by_fold(
        len(evidence),
        lambda others, fold: measure(_fit(evidence[others], names, grid, images), evidence[fold]),
    )


def _by_fold(images: int, measure: Callable[[Rows, Rows], Array]) -> Array:
    """Return what ``measure`` gives for the images of each fold, in the order of the images.

    Folds are blocks: images that follow each other may show the same part.

    Args:
        images: The number n of images.
        measure: Function of the images outside a fold and of those inside, ``(n,)`` each.
    """
    folds = np.arange(images) * HELD_OUT_FOLDS // images
    return np.concatenate([measure(folds != fold, folds == fold) for fold in range(HELD_OUT_FOLDS)])


def _surprisals_and_extremes(statistic: Statistic, evidence: Evidence) -> Array:
    """Return -ln of each density of whole-image statistics in nats, then the standardised extremes of regions."""
    assert statistic.whole is not None
    surprisals = statistic.whole.surprisals(statistic.statistics(evidence))
    local = statistic.local
    if local is None:
        return surprisals
    extremes = log_extremes(local.deviations(evidence.cells), local.shape)
    return np.concatenate([surprisals, local.conditioning(extremes, evidence.whole[:, 0])], 1)


def _with_tails(family: WholeFamily, surprisals: Array) -> WholeFamily:
    """Return a family with the survival functions of normal images whose surprisals by its densities are known.

    Args:
        family: The family.
        surprisals: -ln of each density of n normal images, ``(n, views)`` in nats.
    """
    columns = surprisals.T
    views = tuple(replace(view, tail=Tail.fit(column)) for view, column in zip(family.views, columns, strict=True))
    surprises = np.stack([view.tail.surprise(column) for view, column in zip(views, columns, strict=True)], 1)
    return replace(family, views=views, joint=Tail.fit(total_surprise(surprises, family.shares)))


def _region_tails(z: Array) -> tuple[tuple[Tail, ...], Tail]:
    """Return the survival function of each extreme of regions, ``(n, extremes)``, and of their largest surprise."""
    tails = tuple(Tail.fit(column) for column in z.T)
    return tails, Tail.fit(tail_surprises(z, tails).max(1))


def _predictors(regions: Sequence[Region], columns: int, precision: Array, scale: Array) -> Array:
    """Return the coefficients of the deviations of regions of one shape, ``(regions, cells)``.

    They are w' C P_B / sqrt(w' C w) as in :class:`LocalFamily`, for cells divided by their standard deviations w.

    Args:
        regions: The regions.
        columns: Columns of the grid.
        precision: The precision matrix P of the divided cells, ``(cells, cells)``.
        scale: The standard deviations, ``(cells,)`` in nats.
    """
    inside = members(regions, columns)
    deviations = scale[inside]
    weights = np.linalg.solve(precision[inside[:, :, None], inside[:, None]], deviations[:, :, None])
    spreads = np.sqrt(deviations[:, None] @ weights)
    predictors: Array = (weights.transpose(0, 2, 1) @ precision[inside] / spreads)[:, 0]
    return predictors


def _named(names: Sequence[str], start: str) -> list[int]:
    return [index for index, name in enumerate(names) if name.startswith(start)]


def _informs(name: str, values: Array) -> bool:
    if name.startswith("reconstruction-") and np.median(values) < ROUNDING_NOISE:
        return False
    return bool(values.std() > CONSTANT)
