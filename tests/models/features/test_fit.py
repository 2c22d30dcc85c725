"""Fits of flows over features against NumPy and torch's own distributions, on features of known covariance."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from snf_models.bijections.local_affine import ExactLocalAffine, SelfNormalizingLocalAffine, cell_of_places
from snf_models.features import fit
from snf_models.features.fit import FeatureMoments, HeldOut, Target, choose, fit_layer
from tests.models.helpers import grid_choice

SHAPE = (5, 6, 7)


def features(count: int, seed: int = 0, *, local: bool = True) -> NDArray[np.float32]:
    """Return correlated features whose means and covariances depend on the place, or not."""
    generator = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    mixing = np.eye(5) + 0.8 * fixed.standard_normal((42 if local else 1, 5, 5))
    mean = 3 * fixed.standard_normal((42 if local else 1, 5))
    noise = generator.standard_normal((count, 42, 5))
    x = np.einsum("npc,pdc->npd", noise, np.broadcast_to(mixing, (42, 5, 5))) + mean
    return np.ascontiguousarray(x.transpose(0, 2, 1).reshape(count, *SHAPE), dtype=np.float32)


def moments_of(x: NDArray[np.float32], folds: int = 4, batch: int = 7) -> FeatureMoments:
    found = FeatureMoments(SHAPE, folds)
    fold = np.arange(len(x)) % folds
    for start in range(0, len(x), batch):
        found.add(x[start : start + batch], fold[start : start + batch])
    return found


@pytest.mark.parametrize("grid", [1, 2, 4, 16])
def test_scatter_is_that_of_the_features_in_any_batches(grid: int) -> None:
    x = features(30)
    flat = torch.from_numpy(x).double().flatten(2).permute(0, 2, 1)
    for batch in (1, 7, 30):
        total = moments_of(x, batch=batch).total([0, 2])
        chosen = flat[np.flatnonzero(np.isin(np.arange(30) % 4, [0, 2]))]
        assert total.images == len(chosen)
        means = 0.6 * total.means
        centred = chosen - total.shift - means
        cells = cell_of_places(6, 7, grid)
        expected = torch.stack(
            [
                torch.einsum("npc,npd->cd", centred[:, cells == cell], centred[:, cells == cell])
                for cell in range(int(cells.max()) + 1)
            ]
        )
        torch.testing.assert_close(total.scatter(grid, means), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", ["all-places", "identity"])
@pytest.mark.parametrize(("grid", "shrinkage", "mean_shrinkage"), [(1, 0.1, 0.0), (2, 0.3, 0.4), (16, 0.7, 1.0)])
def test_held_out_likelihood_is_that_of_the_gaussians(
    grid: int, shrinkage: float, mean_shrinkage: float, target: fit.Target
) -> None:
    x = features(40)
    moments = moments_of(x)
    train, held = moments.total([0, 1, 3]), moments.total([2])
    gaussian = SelfNormalizingLocalAffine(SHAPE, grid).double()
    fit_layer(gaussian, moments, [0, 1, 3], grid_choice(grid, shrinkage, mean_shrinkage), target)
    means, factors = gaussian.mean.detach().flatten(1).T, gaussian.inverse_weight.detach()
    cells = cell_of_places(6, 7, grid)
    flat = torch.from_numpy(x).double().flatten(2).permute(0, 2, 1)[np.arange(40) % 4 == 2]
    total = 0.0
    for place, cell in enumerate(cells.tolist()):
        normal = torch.distributions.MultivariateNormal(means[place], scale_tril=factors[cell])
        total += float(normal.log_prob(flat[:, place]).sum())
    expected = -total / flat.numel()
    assert HeldOut(train, held, grid, target).nats(shrinkage, mean_shrinkage) == pytest.approx(expected, rel=1e-9)
    # The layer is the same density: z is standard normal, and its log-det is that of the whitening.
    for kind in (ExactLocalAffine, SelfNormalizingLocalAffine):
        layer = kind(SHAPE, grid).double().eval()
        fit_layer(layer, moments, [0, 1, 3], grid_choice(grid, shrinkage, mean_shrinkage), target)
        with torch.no_grad():
            z, log_det = layer(torch.from_numpy(x[np.arange(40) % 4 == 2]).double())
        values = log_det - 0.5 * z.square().flatten(1).sum(1) - 0.5 * z[0].numel() * math.log(2 * math.pi)
        assert float(values.sum()) == pytest.approx(total, rel=1e-9)
        if isinstance(layer, SelfNormalizingLocalAffine):
            reconstructed = layer.apply_inverse_weight(layer.apply_weight(z))
            torch.testing.assert_close(reconstructed, z, rtol=0, atol=1e-9)


def test_the_likelihood_of_some_cells_is_near_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = moments_of(features(80))
    pair = moments.total([0, 1, 2]), moments.total([3])
    every = HeldOut(*pair, 16, "all-places").nats(0.2, 0.1)
    monkeypatch.setattr(fit, "FEW_CELLS", 8)
    assert fit.evaluated_cells(SHAPE).sum() == pytest.approx(42 / 4, abs=2)
    assert HeldOut(*pair, 16, "all-places").nats(0.2, 0.1) == pytest.approx(every, abs=0.2)


def test_the_grid_follows_the_features() -> None:
    """A matrix for each place where places differ, and one for all where they do not, or where images are few."""
    assert choose(moments_of(features(400)), range(4))[0].grid >= 8
    same = choose(moments_of(features(400, local=False)), range(4))
    assert {choice.mean_shrinkage for choice in same} == {1.0}
    assert all(choice.grid == 1 or choice.shrinkage >= 0.8 for choice in same)
    few = {choice.grid: choice for choice in choose(moments_of(features(12)), range(4))}
    many = {choice.grid: choice for choice in choose(moments_of(features(400)), range(4))}
    assert few[8].shrinkage > many[8].shrinkage


def test_choices_are_sorted_and_finite() -> None:
    choices = choose(moments_of(features(60)), range(4))
    values = [chosen.held_out_nats for chosen in choices]
    assert values == sorted(values)
    assert np.isfinite(values).all()
    assert {choice.grid for choice in choices} == {1, 2, 4, 8}
    with pytest.raises(ValueError, match="at least two folds"):
        choose(moments_of(features(60)), [1])


def test_a_constant_channel_does_not_break_the_fit() -> None:
    x = features(40)
    x[:, 2] = 1.5
    moments = moments_of(x)
    best = choose(moments, range(4))[0]
    layer = SelfNormalizingLocalAffine(SHAPE, best.grid)
    fit_layer(layer, moments, range(4), best)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert math.isfinite(layer.constant_log_det_at(SHAPE))


@pytest.mark.parametrize("target", ["all-places", "identity"])
@torch.no_grad()
def test_groups_of_channels_are_fitted_as_if_they_were_alone(target: Target) -> None:
    x, sizes = features(40)[:, :, :1, :1], (2, 3)
    choice = grid_choice(1, 0.2, 0.0)
    together = FeatureMoments((5, 1, 1), 1, sizes)
    together.add(x, np.zeros(40, np.int8))
    whole = ExactLocalAffine((5, 1, 1), 1)
    fit_layer(whole, together, [0], choice, target)
    latents = whole.apply_weight(torch.from_numpy(x) - whole.mean)
    start = 0
    for size in sizes:
        part = np.ascontiguousarray(x[:, start : start + size])
        alone = FeatureMoments((size, 1, 1), 1)
        alone.add(part, np.zeros(40, np.int8))
        layer = ExactLocalAffine((size, 1, 1), 1)
        fit_layer(layer, alone, [0], choice, target)
        expected = layer.apply_weight(torch.from_numpy(part) - layer.mean)
        torch.testing.assert_close(latents[:, start : start + size], expected, rtol=1e-5, atol=1e-5)
        start += size
    assert not whole.weight[0, 2:, :2].any()
    assert not whole.weight[0, :2, 2:].any()
