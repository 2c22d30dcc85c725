"""Deviations of regions against the conditional Gaussian by covariance blocks, and holes where they were planted."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from snf_models.anomaly.statistic_densities import fit_local
from snf_models.datasets import load_dataset
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer, load_model
from snf_runtime.anomaly.verdict import region_reason
from snf_runtime.scoring.evidence import SQUARES, Region, cell_side, grid_shape, pool, regions, run_flow
from snf_runtime.scoring.pixel_density import content_noise
from tests.support.compiled_cache import compiled

Array = NDArray[np.float64]


def smooth_cells(count: int, rows: int, columns: int, seed: int) -> Array:
    """Cells of correlated neighbours, with a mean and a deviation that differ from place to place."""
    generator = np.random.default_rng(seed)
    i, j = np.divmod(np.arange(rows * columns), columns)
    distance = np.hypot(i[:, None] - i, j[:, None] - j)
    covariance = np.exp(-distance / 2) + 0.2 * np.eye(rows * columns)
    normal = generator.standard_normal((count, rows * columns)) @ np.linalg.cholesky(covariance).T
    cells: Array = normal * (1 + i) * 3 - 5 * j
    return cells


def flat_cells(region: Region, columns: int) -> list[int]:
    return [i * columns + j for i in range(region.top, region.bottom) for j in range(region.left, region.right)]


def covariance_of(reference: Array) -> Array:
    """Σ of the cells, of which each is standardised before it is shrunk."""
    deviation = reference.std(0)
    scale = np.maximum(deviation, max(0.1 * np.median(deviation), 1e-9))
    u = (reference - reference.mean(0)) / scale
    sigma: Array = np.diag(scale) @ ledoit_wolf(u, assume_centered=True)[0] @ np.diag(scale)
    return sigma


def brute_force(sigma: Array, centred: Array, region: Region, columns: int) -> Array:
    """(sum of the region - its expectation given all other cells) / its conditional deviation, by blocks of Σ."""
    inside = flat_cells(region, columns)
    outside = [k for k in range(len(sigma)) if k not in inside]
    if outside:
        gain = np.linalg.solve(sigma[np.ix_(outside, outside)], sigma[np.ix_(outside, inside)]).T
        expected = centred[:, outside] @ gain.T
        conditional = sigma[np.ix_(inside, inside)] - gain @ sigma[np.ix_(outside, inside)]
    else:
        expected, conditional = np.zeros_like(centred), sigma
    difference: Array = (centred[:, inside] - expected).sum(1) / np.sqrt(conditional.sum())
    return difference


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (5, 7), (3, 12), (1, 9)])
def test_deviations_are_those_of_the_conditional_gaussian(rows: int, columns: int) -> None:
    reference, new = smooth_cells(400, rows, columns, 0), smooth_cells(20, rows, columns, 1)
    family = fit_local(reference, np.random.default_rng(2).uniform(1, 2, 400), (rows, columns))
    got = family.deviations(new)
    flat = [region for shape in regions(rows, columns) for region in shape]
    assert got.shape == (20, len(flat))
    assert {region.bottom - region.top for region in flat} >= {side for side in SQUARES if side < min(rows, columns)}
    sigma, mean = covariance_of(reference), reference.mean(0)
    for number, region in enumerate(flat):
        unit = brute_force(sigma, reference - mean, region, columns).std()
        # Shrinkage and fitting on the same images make the model's deviation nearly, not exactly, that of the images.
        assert 0.6 < unit < 1.4
        expected = brute_force(sigma, new - mean, region, columns) / unit
        np.testing.assert_allclose(got[:, number], expected, atol=1e-5, rtol=1e-5, err_msg=str(region))


def test_surprises_by_hand() -> None:
    """Extremes up and down of each shape, their logs standardised, each by its tail, and the largest of all."""
    reference, new = smooth_cells(300, 6, 6, 0), smooth_cells(9, 6, 6, 1)
    c = np.random.default_rng(2).uniform(1, 2, 309)
    family = fit_local(reference, c[:300], (6, 6))
    z = family.deviations(new)
    columns, start = [], 0
    for shape in regions(6, 6):
        part = z[:, start : start + len(shape)]
        start += len(shape)
        columns += [np.log(np.clip(part.max(1), 0.1, None)), np.log(np.clip((-part).max(1), 0.1, None))]
    assert start == z.shape[1]
    standard = family.conditioning(np.stack(columns, 1), c[300:])
    expected = np.stack([tail.surprise(one) for tail, one in zip(family.tails, standard.T, strict=True)], 1)
    np.testing.assert_allclose(family.surprises(new, c[300:]), expected, rtol=1e-9)
    np.testing.assert_allclose(family.surprise(new, c[300:]), family.joint.surprise(expected.max(1)), rtol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("planted", [Region(1, 3, 4, 6), Region(2, 6, 0, 4), Region(4, 5, 0, 8), Region(0, 8, 6, 7)])
def test_what_was_planted_is_found(planted: Region, sign: int) -> None:
    generator = np.random.default_rng(0)
    reference = 10 + np.outer(np.ones(600), np.arange(1, 65)) * generator.standard_normal((600, 64))
    family = fit_local(reference, np.linspace(1, 2, 600), (8, 8))
    inside = flat_cells(planted, 8)
    cells = 10 + np.outer(np.ones(5), np.arange(1, 65)) * 0.5 * generator.standard_normal((5, 64))
    # All of the region by as many deviations.
    cells[:, inside] += sign * 2.5 * np.arange(1, 65)[inside]
    for region, z in family.most_surprising(cells, np.full(5, 1.5)):
        assert region == planted
        assert np.sign(z) == sign
        assert abs(z) > 3


def additive_maps(scorer: Scorer, images: NDArray[np.uint8]) -> Array:
    x = np.stack([i + content_noise(i, scorer.log_det_digest)[0] for i in images])
    return run_flow(scorer.trained.pixels.engine, scorer.trained.pixels.frozen, x).additive_map()


def test_a_hole_in_a_real_map_is_found() -> None:
    """Eight by eight pixels that are as plain as the margin, in the middle of the additive map of a digit."""
    scorer = load_model(ZOO / "mnist-snf-glow" / "1", options=compiled())
    digits = load_dataset("mnist-mini", None)
    grid, side = grid_shape(28, 28), cell_side(28, 28)
    maps = additive_maps(scorer, digits.train)
    family = fit_local(pool(maps), np.full(len(maps), 1.0), grid)
    new = additive_maps(scorer, digits.test[:10])
    holed = new.copy()
    holed[:, 10:18, 12:20] = maps.mean(0)[10:18, 12:20] + 2 * maps.std(0)[10:18, 12:20]
    expected = Region(5, 9, 6, 10)
    assert side == 2
    complexity = np.full(10, 1.0)
    found = family.most_surprising(pool(holed), complexity)
    for region, z in found:
        assert z > 5, "plainer than its surroundings: more likely"
        assert region in (expected, Region(5, 11, 6, 12)), "the hole, or with a plain margin of one digit"
    assert [region for region, _ in found].count(expected) >= 9
    assert (family.surprise(pool(holed), complexity) > family.surprise(pool(new), complexity)).all()
    reason = region_reason(expected, found[0][1], 0.5, side, (28, 28))
    assert reason.box == (12, 10, 20, 18)
    assert "rows 10-17, columns 12-19" in reason.text
    assert "plainer" in reason.text
    assert "less likely" in region_reason(expected, -3.0, 0.5, side, (28, 28)).text
