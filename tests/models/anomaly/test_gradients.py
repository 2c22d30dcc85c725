"""Per-image squared gradients against automatic differentiation of one image at a time in double precision."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.anomaly.gradients.passes import GradientPasses
from models.anomaly.gradients.per_image_gradients import FLOOR, GROUPS, TILE, GradientProbe, gradient_map
from models.bijections.actnorm import ActNorm
from models.bijections.base import ChannelAffine
from models.bijections.conv1x1 import ExactConv1x1
from models.bijections.coupling import AffineCoupling
from models.flows.architecture import PixelTransform
from models.flows.flow import Flow
from snf_runtime.scoring.pixel_density import dequantise
from tests.models.anomaly.flows import GLOW_IDS, GLOWS, fully_connected
from tests.models.helpers import dequantised, glow, real_images

EVERY_GLOW = pytest.mark.parametrize(("side", "channels", "pixels"), GLOWS, ids=GLOW_IDS)


def layers_in_groups(flow: Flow) -> list[list[nn.Module]]:
    """The layers that gradients are taken of, by level and kind, in at most eight runs of neighbours."""
    groups: list[list[nn.Module]] = []
    for level in flow.level_list():
        steps = list(level.bijections())
        for chosen in (
            [s for s in steps if isinstance(s, ActNorm)],
            [s for s in steps if isinstance(s, ChannelAffine) and not isinstance(s, ActNorm)],
            [s.net.last for s in steps if isinstance(s, AffineCoupling)],
        ):
            rest: list[nn.Module] = list(chosen)
            for left in range(min(GROUPS, len(chosen)), 0, -1):
                take = -(-len(rest) // left)
                groups.append(rest[:take])
                rest = rest[take:]
        if level.prior is not None:
            groups.append([level.prior.net.last])
    return groups


def gradient_of_weight(layer: nn.Module) -> Tensor:
    """The gradient of the matrix of a layer after a backward pass through its parameters, in the probe's order."""
    if isinstance(layer, ActNorm):
        # z = A x + b with A = exp(-l), b = -t A: dl = -A (dA - t db), dt = -A db.
        scale = layer.log_scale.detach().exp()
        log_scale, shift = layer.log_scale.grad, layer.shift.grad
        assert log_scale is not None
        assert shift is not None
        return -scale * (log_scale + layer.shift.detach() * shift)
    assert isinstance(layer, nn.Conv2d | ExactConv1x1)
    assert layer.weight.grad is not None
    if isinstance(layer, nn.Conv2d):
        return layer.weight.grad.flatten(1).T.flatten()
    return layer.weight.grad.flatten()


def by_autograd(flow: Flow, x: Tensor) -> tuple[list[list[Tensor]], list[Tensor]]:
    """For each image the squared gradients of each group, and the gradient of its transformed pixels."""
    double = copy.deepcopy(flow).double().eval().requires_grad_(True)
    squares, pixels = [], []
    for one in x:
        double.zero_grad(set_to_none=True)
        y, log_det = double.pixels(one[None])
        y = y.detach().requires_grad_(True)
        double.forward_pixels(y, log_det.detach()).log_likelihood.sum().backward()  # type: ignore[no-untyped-call]
        groups = layers_in_groups(double)
        squares.append([torch.cat([gradient_of_weight(layer).square() for layer in group]) for group in groups])
        assert y.grad is not None
        pixels.append(y.grad[0])
    return squares, pixels


@EVERY_GLOW
def test_squared_gradients_are_those_of_autograd(side: int, channels: int, pixels: PixelTransform) -> None:
    flow = glow(side, channels, pixels=pixels)
    x = dequantised(real_images(3, side, channels))
    probe = GradientProbe(flow)
    got = probe(x)
    squares, slopes = by_autograd(flow, x)
    assert probe.sizes == [len(group) for group in squares[0]]
    assert len(probe.names) == len(set(probe.names)) == len(got.layers)
    for i in range(3):
        for name, mine, theirs in zip(probe.names, got.layers, squares[i], strict=True):
            expected = float(theirs.sum())
            assert expected > 1e-6, name
            assert float(mine[i].double().sum()) == pytest.approx(expected, rel=1e-3), name
            torch.testing.assert_close(mine[i].double(), theirs, rtol=1e-2, atol=1e-4 * float(theirs.max()), msg=name)
        largest = float(slopes[i].abs().max())
        torch.testing.assert_close(got.image[i].double(), slopes[i], rtol=1e-3, atol=1e-4 * largest)
    expected_map = torch.stack([one.square().sum(0).sqrt() for one in slopes]).numpy()
    np.testing.assert_allclose(gradient_map(got), expected_map, rtol=1e-2, atol=1e-3 * expected_map.max())


def test_many_layers_are_taken_together_by_neighbours() -> None:
    flow = glow(8, steps=11)
    x = dequantised(real_images(1, 8))
    probe = GradientProbe(flow)
    assert len(probe.names) == 3 * GROUPS
    assert sum(probe.sizes) == 11 * (4 + 16 + 9 * 16 * 4)
    assert probe.sizes[:GROUPS] == [8, 8, 8, 4, 4, 4, 4, 4]
    for got, expected in zip(probe(x).layers, by_autograd(flow, x)[0][0], strict=True):
        torch.testing.assert_close(got[0].double(), expected, rtol=1e-2, atol=1e-4 * float(expected.max()))


def test_a_step_along_the_gradient_raises_the_likelihood_as_much_as_its_square() -> None:
    """Not by any derivative of ours: a finite difference in the entries of a mixing matrix."""
    flow = glow(8)
    x = dequantised(real_images(1, 8))
    probe = GradientProbe(flow)
    number = probe.names.index("mixing-1.1")
    total = float(probe(x).layers[number].sum())
    double = copy.deepcopy(flow).double()
    layer = layers_in_groups(double)[number][0]
    assert isinstance(layer, ExactConv1x1)
    step = 1e-6

    @torch.no_grad()
    def value() -> float:
        return float(double(x).log_likelihood)

    squared = 0.0
    for entry in [entry for row in layer.weight.data for entry in row]:
        before = float(entry)
        entry.fill_(before + step)
        above = value()
        entry.fill_(before - step)
        squared += ((above - value()) / (2 * step)) ** 2
        entry.fill_(before)
    assert total == pytest.approx(squared, rel=1e-3)


@pytest.mark.parametrize("count", [1, TILE - 1, TILE, TILE + 1, 9])
def test_company_does_not_matter(count: int) -> None:
    flow = glow(16, pixels="logit")
    x = dequantised(real_images(20, 16))
    probe = GradientProbe(flow)
    together, some = probe(x), probe(x.flip(0)[:count])
    assert len(some.image) == count
    for whole, part in zip(together.layers, some.layers, strict=True):
        norms, others = whole.double().sum(1).flip(0)[:count], part.double().sum(1)
        torch.testing.assert_close(others, norms, rtol=1e-6, atol=0)
    torch.testing.assert_close(some.image, together.image.flip(0)[:count], rtol=1e-6, atol=1e-6)


def test_features_and_fisher_information_by_hand() -> None:
    flow = glow(8, 3)
    images = real_images(37, 8, 3)
    looks = GradientPasses(GradientProbe(flow), "digest")
    x = torch.from_numpy(dequantise(images, "digest"))
    squares, slopes = by_autograd(flow, x)
    fisher = looks.fisher(images)
    for number, information in enumerate(fisher):
        expected = torch.stack([one[number] for one in squares]).mean(0)
        torch.testing.assert_close(information.double(), expected, rtol=1e-2, atol=1e-4 * float(expected.max()))
    features = looks.features(images, fisher)
    assert features.shape == (37, 1 + 2 * len(fisher))
    for i in (0, 31, 32, 36):
        norms = [math.log(float(slopes[i].square().sum()) + FLOOR)]
        norms += [math.log(float(one.sum()) + FLOOR) for one in squares[i]]
        scores = [
            math.log(float((one / (f.double() + FLOOR)).mean()) + FLOOR)
            for one, f in zip(squares[i], fisher, strict=True)
        ]
        np.testing.assert_allclose(features[i], norms + scores, atol=2e-3, rtol=0)


def test_fisher_scores_of_the_images_it_is_of_average_to_one() -> None:
    looks = GradientPasses(GradientProbe(glow(8)), "digest")
    images = real_images(40, 8)
    fisher = looks.fisher(images)
    scores = np.exp(looks.features(images, fisher)[:, 1 + len(fisher) :])
    np.testing.assert_allclose(scores.mean(0), 1, rtol=1e-4)


@pytest.mark.parametrize(("few", "kept", "tiles"), [(40, 2**23, 5), (40, 0, 10), (16, 2**23, 7)])
def test_images_of_both_have_one_backward_pass_where_gradients_can_be_kept(
    few: int, kept: int, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.anomaly.gradients.passes.KEPT_GRADIENTS", kept)
    probe = GradientProbe(glow(8))
    looks = GradientPasses(probe, "digest")
    images, rows = real_images(40, 8), (np.arange(few), np.arange(40))
    fisher = looks.fisher(images, rows=rows[0])
    features = looks.features(images, fisher)
    passes: list[int] = []
    done: tuple[list[int], list[int]] = ([], [])
    probe.flow.pixels.register_forward_pre_hook(lambda _pixels, images: passes.append(len(images[0])))
    found, columns = looks.fisher_and_features(images, rows, (done[0].append, done[1].append))
    assert all(torch.equal(one, other) for one, other in zip(found, fisher, strict=True))
    np.testing.assert_array_equal(columns, features)
    assert passes == [TILE] * tiles
    assert (done[0][-1], done[1][-1]) == (few, 40)


def test_stored_information_of_another_flow_is_refused() -> None:
    looks = GradientPasses(GradientProbe(glow(8)), "digest")
    flat = np.concatenate([part.numpy() for part in looks.fisher(real_images(5, 8))])
    assert [len(part) for part in looks.split(flat)] == looks.probe.sizes
    with pytest.raises(ValueError, match=f"expected {len(flat)} squared gradients, got {len(flat) - 1}"):
        looks.split(flat[1:])


def test_probing_leaves_the_flow_and_its_gradients_alone() -> None:
    flow = glow(8)
    before = copy.deepcopy(flow.state_dict())
    GradientProbe(flow)(dequantised(real_images(2, 8)))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in flow.parameters())


def test_dense_layers_leave_the_gradient_of_the_pixels() -> None:
    flow = fully_connected(6)
    looks = GradientPasses(GradientProbe(flow), "digest")
    images = real_images(6, 6)
    assert looks.fisher(images) == []
    features = looks.features(images, [])
    slopes = by_autograd_pixels(flow, torch.from_numpy(dequantise(images, "digest")))
    expected = [[math.log(float(one.square().sum()) + FLOOR)] for one in slopes]
    np.testing.assert_allclose(features, expected, atol=1e-3)


def by_autograd_pixels(flow: Flow, x: Tensor) -> Tensor:
    double = copy.deepcopy(flow).double().eval()
    y = double.pixels(x)[0].detach().requires_grad_(True)
    found: Tensor = torch.autograd.grad(double.forward_pixels(y, y.new_zeros(len(y))).log_likelihood.sum(), y)[0]
    return found
