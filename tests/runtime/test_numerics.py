"""NumPy in place of SciPy: sums of exponentials, splines, filters and connected regions give SciPy's results."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp as scipys_logsumexp

from snf_runtime.anomaly.maps import MAX_REGIONS, SMOOTHING, connected, find_regions, of_pixels
from snf_runtime.anomaly.statistics import _basis
from snf_runtime.scoring.evidence import logsumexp

TOUCHING = np.ones((3, 3))


@pytest.mark.parametrize("weights", [None, np.array([0.5, 0.25, 0.25, 0.0])])
def test_sums_of_exponentials(weights: np.ndarray[tuple[int], np.dtype[np.float64]] | None) -> None:
    values = np.random.default_rng(0).normal(0, 300, (50, 4))
    values[0], values[1], values[2] = -np.inf, [np.inf, 0, 0, 0], [np.nan, 0, 0, 0]
    values[3] = [1e3, 1e3, 1e3, 1e3]
    with np.errstate(divide="ignore"):
        expected = scipys_logsumexp(values, axis=1, b=weights)
    np.testing.assert_allclose(logsumexp(values, weights), expected, rtol=1e-14)


def test_a_value_without_weight_is_left_out() -> None:
    """The largest value would be infinite, and 0 times infinity no number."""
    values = np.array([[np.inf, 1.0], [np.nan, 1.0], [1.0, np.inf]])
    with np.errstate(all="raise"):
        assert logsumexp(values[:2], np.array([0.0, 1.0])).tolist() == [1.0, 1.0]
        assert logsumexp(values[2:], np.array([0.5, 0.5])).tolist() == [np.inf]
        assert logsumexp(np.array([[2000.0, 1.0]]), np.array([0.0, 1.0])).tolist() == [1.0]


@pytest.mark.parametrize("knots", [[0.0, 1.0, 1.5, 4.0], [-3.0, 0.1, 7.0], [0.0, 0.01, 1.0, 5.0, 9.0]])
def test_splines(knots: list[float]) -> None:
    spline = CubicSpline(knots, np.eye(len(knots)), bc_type="natural")
    low, high = knots[0], knots[-1]
    x = np.concatenate([knots, np.random.default_rng(0).uniform(low - 1, high + 1, 300)])
    inside = np.clip(x, low, high)
    expected = spline(inside) + (x - inside)[:, None] * spline.derivative()(inside)
    np.testing.assert_allclose(_basis(x, np.array(knots)), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(28, 28), (3, 17, 9), (2, 1, 5), (1, 1), (4, 2, 2), (0, 5, 5), (2, 0, 5)])
def test_the_filter_of_maps(shape: tuple[int, ...]) -> None:
    z = np.random.default_rng(0).normal(size=shape)
    sides = (0.0,) * (z.ndim - 2) + (SMOOTHING, SMOOTHING)
    np.testing.assert_allclose(of_pixels(z), ndimage.gaussian_filter(-z, sides), rtol=0, atol=1e-14)


def test_the_filter_of_maps_takes_little_memory() -> None:
    z = np.random.default_rng(0).normal(size=(100, 64, 64))
    tracemalloc.start()
    of_pixels(z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * z.nbytes


def spiral(side: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """A single line that winds inwards: its runs are joined one after the other."""
    mask = np.zeros((side, side), dtype=bool)
    for ring in range(0, side // 2, 2):
        mask[ring, ring : side - ring] = mask[ring : side - ring, side - 1 - ring] = True
        mask[side - 1 - ring, ring : side - ring] = mask[ring + 2 : side - ring, ring] = True
        mask[ring + 2, ring : ring + 3] = True
    return mask


@pytest.mark.parametrize("share", [0.02, 0.2, 0.4, 0.6, 0.98, 1.0])
@pytest.mark.parametrize("shape", [(40, 30), (1, 50), (50, 1), (7, 7)])
def test_connected_regions(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    expected, _ = ndimage.label(mask, TOUCHING)
    np.testing.assert_array_equal(connected(mask), expected[mask] - 1)


def test_a_region_that_winds() -> None:
    mask = spiral(41)
    expected, count = ndimage.label(mask, TOUCHING)
    assert count == 1
    np.testing.assert_array_equal(connected(mask), expected[mask] - 1)
    assert connected(np.zeros((4, 4), dtype=bool)).size == 0


@pytest.mark.parametrize("seed", range(5))
def test_regions_of_maps(seed: int) -> None:
    anomaly = np.random.default_rng(seed).normal(size=(37, 53))
    found = find_regions(anomaly, 0.8)
    labels, count = ndimage.label(anomaly >= 0.8, TOUCHING)
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(anomaly, labels, numbers)
    strongest = np.argsort(-np.asarray(peaks), kind="stable")[:MAX_REGIONS]
    boxes = ndimage.find_objects(labels)
    assert found.count == count > MAX_REGIONS
    for region, index in zip(found.regions, strongest.tolist(), strict=True):
        rows, columns = boxes[index]
        assert region.box == (columns.start, rows.start, columns.stop, rows.stop)
        assert region.area == int((labels == index + 1).sum())
        assert region.peak == peaks[index]
        row, column = ndimage.maximum_position(anomaly, labels, index + 1)
        assert region.place == (column, row)


def test_of_equal_peaks_the_first_is_the_place() -> None:
    anomaly = np.zeros((6, 6))
    anomaly[2:4, 1:5] = 1.0
    (region,) = find_regions(anomaly, 0.5).regions
    assert region.place == (1, 2)
