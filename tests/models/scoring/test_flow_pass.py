"""The additive map: its sum, its places, its independence from company; and cells, sums of it."""

import math
from itertools import groupby

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.coupling import AffineCoupling
from snf_models.flows.architecture import PixelTransform
from snf_models.flows.flow import Flow
from snf_models.scoring.frozen import FrozenFlow, constant_log_dets, freeze
from snf_models.scoring.torch_engine import TorchEngine
from snf_runtime.scoring.evidence import Region, cell_side, grid_shape, members, pool, regions, run_flow
from tests.models.anomaly.flows import GLOW_IDS, GLOWS, convolutional, glow_and_frozen, images_of, one_pass

EVERY_GLOW = pytest.mark.parametrize(("side", "channels", "pixels"), GLOWS, ids=GLOW_IDS)


def check_sum(flow: Flow, frozen: FrozenFlow) -> None:
    x, found = one_pass(frozen, images_of(frozen, 6))
    total = found.additive_map().sum((1, 2))
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, found.terms().sum((1, 2)), rtol=1e-6)
    with torch.no_grad():
        expected = flow.double()(x).log_likelihood
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("side", "channels"), [(12, 1), (8, 3)])
def test_sum_is_the_log_likelihood_of_convolutions_and_splines(side: int, channels: int) -> None:
    flow = convolutional(side, channels)
    check_sum(flow, freeze(flow, (channels, side, side)))


def slow_map(flow: Flow, x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The map pixel by pixel from the layers of a Glow in double precision."""
    height, width = x.shape[2:]
    y, slopes = flow.pixels.map_with_slope(x)
    result = slopes.sum(1).numpy().copy()
    result += sum(constant_log_dets(flow, tuple(x.shape[1:])).values()) / (height * width)

    def spread(values: Tensor) -> None:
        block = height // values.shape[1]
        for i in range(height):
            for j in range(width):
                result[:, i, j] += values[:, i // block, j // block].numpy() / block**2

    for level in flow.level_list():
        for step in level.bijections():
            if isinstance(step, AffineCoupling):
                spread(step.map_with_slope(y)[1].sum(1))
            y = step(y)[0]
        latent = y
        if level.prior is not None:
            spread(level.prior.map_with_slope(y)[1].sum(1))
            whitened = level.prior(y)[0]
            y, latent = whitened[:, : level.prior.kept], whitened[:, level.prior.kept :]
        spread((-0.5 * latent.square() - 0.5 * math.log(2 * math.pi)).sum(1))
    return result


@EVERY_GLOW
@torch.no_grad()
def test_every_pixel_gets_what_belongs_to_it(side: int, channels: int, pixels: PixelTransform) -> None:
    flow, frozen = glow_and_frozen(side, channels, pixels)
    x, found = one_pass(frozen, images_of(frozen, 3))
    expected = slow_map(flow.double(), x)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found.additive_map(), expected, rtol=2e-6, atol=2e-4)


@torch.no_grad()
def test_convolutions_keep_their_places() -> None:
    """A flow whose convolutions do nothing moves no value: each pixel's part depends on that pixel alone."""
    flow = convolutional(12)
    for name, parameter in flow.named_parameters():
        if "weight" in name:
            parameter.zero_()
            middle = parameter.shape[-1] // 2
            parameter[range(len(parameter)), range(len(parameter)), middle, middle] = 1
    frozen = freeze(flow, (1, 12, 12))
    images = images_of(frozen, 2)
    images[1] = images[0]
    images[1, 0, 5, 6] ^= 128
    maps = one_pass(frozen, images[:1])[1].additive_map(), one_pass(frozen, images[1:])[1].additive_map()
    changed = np.abs(maps[0] - maps[1])[0] > 1e-9
    # The blocks squeeze twice: what a pixel changes lies in its 4 x 4 block.
    assert changed.any()
    assert set(map(tuple, np.argwhere(changed).tolist())) <= {(i, j) for i in range(4, 8) for j in range(4, 8)}


@pytest.mark.parametrize("family", ["glow", "convolutional"])
def test_company_and_order_do_not_matter(family: str) -> None:
    frozen = glow_and_frozen(16, 1, "logit")[1] if family == "glow" else freeze(convolutional(12), (1, 12, 12))
    images = images_of(frozen, 9)
    x, found = one_pass(frozen, images)
    maps = found.additive_map()
    order = np.array([4, 0, 8, 2, 6, 1, 3, 7, 5])
    shuffled = run_flow(TorchEngine(frozen), frozen, x.numpy()[order]).additive_map()
    alone = np.concatenate([run_flow(TorchEngine(frozen), frozen, one[None]).additive_map() for one in x.numpy()])
    np.testing.assert_array_equal(alone, maps)
    np.testing.assert_allclose(shuffled, maps[order], rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(found.rows(slice(2, 9, 3)).additive_map(), maps[2:9:3])


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (8, 8), (17, 33), (20, 64), (8, 128)])
def test_cells_are_sums_of_their_pixels(height: int, width: int) -> None:
    maps = np.random.default_rng(0).normal(size=(3, height, width))
    side, (rows, columns) = cell_side(height, width), grid_shape(height, width)
    assert max(rows, columns) <= 16
    cells = pool(maps)
    assert cells.shape == (3, rows * columns)
    for number in range(rows * columns):
        top, left = side * (number // columns), side * (number % columns)
        expected = maps[:, top : top + side, left : left + side].sum((1, 2))
        np.testing.assert_allclose(cells[:, number], expected, rtol=1e-12)
    np.testing.assert_allclose(cells.sum(1), maps.sum((1, 2)), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("rows", "columns"), [(14, 14), (4, 4), (2, 2), (3, 16), (1, 16), (16, 1), (1, 2)])
def test_regions_lie_on_the_grid_and_are_all_different(rows: int, columns: int) -> None:
    shapes = regions(rows, columns)
    assert shapes, "there is something to look at on every grid"
    assert all(shapes)
    everything = [region for shape in shapes for region in shape]
    assert len(set(everything)) == len(everything)
    expected = {i * columns + j for i in range(rows) for j in range(columns)}
    for _, alike in groupby(everything, key=Region.shape):
        group = list(alike)
        for region, cells in zip(group, members(group, columns).tolist(), strict=True):
            in_rows = range(region.top, region.bottom)
            inside = {i * columns + j for i in in_rows for j in range(region.left, region.right)}
            assert set(cells) == inside <= expected
            assert len(cells) == len(inside)
