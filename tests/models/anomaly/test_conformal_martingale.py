"""The conformal test martingale: ranks and capital by hand, silence without drift, and alarms where images change."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, binom, kstest, norm

from snf_models.anomaly.exchangeability import (
    BETS,
    SHAPES,
    ConformalMartingale,
    RankCounts,
    log_densities,
)
from snf_runtime.anomaly.calibration import CELLS, statistic_cells
from snf_runtime.anomaly.calibration import p_values as conformal_p_values

Array = NDArray[np.float64]

ALARM = math.log(1000)


def conformal(generator: np.random.Generator, n: int, stream: Array) -> Array:
    """P-values of a stream among n calibration images, which are normal numbers; large is anomalous."""
    return conformal_p_values([np.sort(generator.normal(size=n))], [stream])


def evidence(normal: Array) -> Array:
    """Return statistics in nats, -ln of the share of normal numbers that are larger."""
    return -norm.logsf(normal)


def counts(statistics: Array) -> RankCounts:
    return RankCounts.of(np.bincount(statistic_cells(statistics), minlength=CELLS))


def ranks(generator: np.random.Generator, n: int, stream: Array) -> Array:
    return counts(evidence(generator.normal(size=n))).add(statistic_cells(evidence(stream)))


def uniform(count: int) -> Array:
    """The numbers that order images of one cell."""
    return np.random.Generator(np.random.Philox(key=0)).random(count)


def capital(ranks: Array) -> Array:
    return ConformalMartingale().bet(ranks)


def test_images_tie_with_calibration_images_and_each_other() -> None:
    u = uniform(2)
    found = RankCounts.of([2, 3, 0]).add(np.array([1, 2]))
    assert found == pytest.approx([(2 + 4 * u[0]) / 6, (6 + u[1]) / 7])


def test_cells_of_statistics_fall_and_end() -> None:
    ends = statistic_cells([np.inf, 1e6, 1e5, 0.1, 0.0, -1.0])
    assert ends.tolist() == [0, 0, ends[2], ends[3], CELLS - 1, CELLS - 1]
    assert 0 < ends[2] < ends[3] < CELLS - 1
    assert (np.diff(statistic_cells(np.linspace(0, 10, 10_000))) <= 0).all()


@pytest.mark.parametrize("n", [50, 5000])
def test_ranks_are_those_among_all_images(n: int) -> None:
    generator = np.random.default_rng(n)
    normal, stream = generator.normal(size=n), generator.normal(size=600)
    found = counts(evidence(normal)).add(statistic_cells(evidence(stream)))
    everything = np.concatenate([normal, stream])
    direct = [np.mean(everything[: n + i] > value) for i, value in enumerate(stream)]
    # Images in the same cell are ordered by chance.
    assert np.abs(found - direct).max() < 0.02 + 2 / n
    assert np.abs(found - direct).mean() < 0.005 + 1 / n


def test_image_by_image_is_as_all_at_once() -> None:
    cells = statistic_cells(evidence(np.random.default_rng(1).normal(size=700)))
    once, single = (counts(evidence(np.random.default_rng(0).normal(size=99))) for _ in range(2))
    together = once.add(cells)
    assert np.concatenate([single.add(cells[i : i + 1]) for i in range(700)]) == pytest.approx(together)
    assert single.counts.tolist() == once.counts.tolist()
    whole, parts = ConformalMartingale(), ConformalMartingale()
    expected = whole.bet(together)
    assert np.concatenate([parts.bet(part) for part in np.split(together, [1, 300])]) == pytest.approx(expected)
    assert parts.images == 700
    assert parts.log_highest == pytest.approx(whole.log_highest)
    assert parts.log_bets == pytest.approx(whole.log_bets)


def test_capital_by_hand() -> None:
    # A rank of 1/2 is worth 1 by a slope; by a beta density of shape (a, b) it is 0.5 ** (a + b - 2) / B(a, b).
    bet = 1 - 1 / (1 + math.log1p(1 / 100))
    expected = 1 - bet + bet * (4 + sum(beta.pdf(0.5, *shape) for shape in SHAPES)) / BETS
    martingale = ConformalMartingale()
    assert martingale.bet(np.array([0.5])) == pytest.approx([math.log(expected)])
    assert martingale.bet(np.empty(0)).tolist() == []


def test_each_bet_is_fair() -> None:
    ranks = (np.arange(400_000) + 0.5) / 400_000
    assert np.exp(log_densities(ranks)).mean(axis=1) == pytest.approx(np.ones(BETS), abs=0.01)


@pytest.mark.parametrize("n", [20, 500])
def test_ranks_are_independent_and_uniform(n: int) -> None:
    generator = np.random.default_rng(n)
    streams = np.array([ranks(generator, n, generator.normal(size=60)) for _ in range(500)])
    assert kstest(streams.ravel(), "uniform").pvalue > 1e-3
    # The sum over a stream has the variance of independent numbers, 1/12 each.
    assert streams.sum(axis=1).var() == pytest.approx(60 / 12, rel=0.25)


def test_ranks_among_calibration_images_alone_raise_alarms_without_drift() -> None:
    """Why earlier images are ranked among: the same 100 calibration images make the p-values of a stream dependent."""
    alarms = {"all": 0, "calibration": 0}
    for seed in range(40):
        generator = np.random.default_rng(seed)
        n, stream = 100, generator.normal(size=5000)
        p = conformal(generator, n, stream)
        alone = p - generator.random(len(p)) / (n + 1)  # smoothed: exactly uniform
        among_all = ranks(generator, n, stream)
        alarms["calibration"] += bool(capital(alone).max() >= ALARM)
        alarms["all"] += bool(capital(among_all).max() >= ALARM)
    assert alarms["all"] == 0
    assert alarms["calibration"] > 20


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Of 400 streams, a tenth may ever reach a capital of 10, by Ville's inequality."""
    rounds, reached = 400, 0
    for seed in range(rounds):
        generator = np.random.default_rng((1, seed))
        reached += bool(capital(ranks(generator, 200, generator.normal(size=2000))).max() >= math.log(10))
    assert reached <= binom.isf(1e-4, rounds, 0.1)


@pytest.mark.parametrize(
    ("shift", "spread", "within"), [(0.5, 1.0, 300), (3.0, 1.0, 20), (-0.5, 1.0, 300), (0.0, 0.7, 300), (0.0, 1.5, 300)]
)
@pytest.mark.parametrize("before", [0, 3000])
def test_changes_are_found(shift: float, spread: float, within: int, before: int) -> None:
    late = 0
    for seed in range(10):
        generator = np.random.default_rng((before, seed))
        changed = shift + spread * generator.normal(size=within)
        found = capital(ranks(generator, 2000, np.concatenate([generator.normal(size=before), changed])))
        late += not (found >= ALARM).any()
    assert late <= 1


def test_many_images_stay_finite() -> None:
    martingale = ConformalMartingale()
    assert np.isfinite(martingale.bet(np.full(100_000, 1e-15))).all()
    assert np.isfinite(martingale.bet(np.full(100_000, 0.5))).all()
    assert martingale.log_highest > 1e5
    assert math.isfinite(martingale.log_capital)


def test_equal_statistics_are_ordered_by_chance() -> None:
    """A twentieth of the images have the smallest statistic."""
    reached = 0
    for seed in range(200):
        statistics = np.maximum(evidence(np.random.default_rng(seed).normal(size=6000)), -math.log(0.95))
        found = capital(counts(statistics[:1000]).add(statistic_cells(statistics[1000:])))
        reached += bool(found.max() >= math.log(100))
    assert reached <= binom.isf(1e-4, 200, 0.01)
