"""Simulated false-alarm rates of ranks: suspects, groups, folds, copies, sizes, weights chosen by the ranked.

    python -m benchmarks.rank_rates [--repetitions 2000]

Images are vectors, and p-values are ranks of an anomaly statistic as docs/calibration.md describes them. Nothing of the
product is used: an error of it cannot hide here. In each repetition images are drawn anew, the statistic is fitted
anew, and new images are ranked. The statistics are the Mahalanobis distance, and the distance to the nearest image of
the fit, which depends most on what the fit has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from benchmarks.common import RESULTS, parser_of, table, write_results

ALPHAS = (0.01, 0.05, 0.1)
SIDE, WIDE = 5, 60
"""Values of an image, and of images whose covariance hardly follows from so few."""
NEW = 100
FOLDS = 5
DIRT, SHIFT = 0.05, 4.0
"""Share of dirty images, and their distance from the mean of the others."""
PLACES = 49
"""Places of a tile."""
TWIN = 0.05
"""Standard deviation of the difference of two near duplicates."""
Array = NDArray[np.float64]
Statistic = Callable[[Array], Callable[[Array], Array]]
"""A function from the images of a fit to the function that gives T of images."""


def mahalanobis(fitted: Array) -> Callable[[Array], Array]:
    """Return the squared Mahalanobis distance by mean and covariance of the fitted images."""
    mean, size = fitted.mean(0), fitted.shape[1]
    precision = np.linalg.inv(np.cov(fitted.T) + 0.01 * np.eye(size))
    return lambda x: np.einsum("ni,ij,nj->n", x - mean, precision, x - mean)


def nearest(fitted: Array) -> Callable[[Array], Array]:
    squares = (fitted**2).sum(1)
    return lambda x: (squares - 2 * x @ fitted.T).min(1) + (x**2).sum(1)


STATISTICS: dict[str, Statistic] = {"Mahalanobis": mahalanobis, "nearest image": nearest}


def fitted_without(x: Array, statistic: Statistic, share: float) -> Callable[[Array], Array]:
    """Fit to the images, and once more without the share of them with the largest T."""
    fit = statistic(x)
    return statistic(x[np.argsort(fit(x))[: len(x) - round(share * len(x))]]) if share else fit


def p_values(values: list[Array], new: list[Array], left_out: float = 0.0) -> Array:
    """Return p-values of new images from the T of ranked and new images by each fold's fit.

    ``left_out`` is the share of the largest T of all folds together that give no ranks.
    """
    together = np.sort(np.concatenate(values))
    kept = len(together) - round(left_out * len(together))
    limit = together[kept - 1]
    above = sum(
        (of_fold[of_fold <= limit][:, None] >= of_new).sum(0) for of_fold, of_new in zip(values, new, strict=True)
    )
    return np.asarray((1 + above) / (kept + 1))


def crossed(
    x: Array, folds: NDArray[np.int64], new: Array, statistic: Statistic, share: float = 0.0, left_out: float = 0.0
) -> Array:
    """Return cross-conformal p-values: each fold is ranked by a fit to the others."""
    fits = [fitted_without(x[folds != fold], statistic, share) for fold in range(FOLDS)]
    return p_values([fit(x[folds == fold]) for fold, fit in enumerate(fits)], [fit(new) for fit in fits], left_out)


@dataclass(frozen=True)
class Case:
    """A row of the table: how images are drawn and ranked.

    Attributes:
        name: What is simulated.
        images: Images in all.
        run: The function from a random generator and a statistic to p-values of new good images, and of dirty ones.
    """

    name: str
    images: int
    run: Callable[[np.random.Generator, Statistic], tuple[Array, Array | None]]


def suspects(images: int, dirt: float, share: float, *, ranked: bool, split: bool) -> Case:
    """Return a case of suspects that are left out of the fit, and of the ranks unless ``ranked``."""

    def run(random: np.random.Generator, statistic: Statistic) -> tuple[Array, Array]:
        x, bad = random.normal(size=(images, SIDE)), random.random(images) < dirt
        direction = random.normal(size=(images + NEW, SIDE))
        direction *= SHIFT / np.linalg.norm(direction, axis=1)[:, None]
        x[bad] += direction[:images][bad]
        good, strange = random.normal(size=(NEW, SIDE)), random.normal(size=(NEW, SIDE)) + direction[images:]
        new, left_out = np.concatenate([good, strange]), 0.0 if ranked else share
        if split:
            half = images // 2
            fit = fitted_without(x[:half], statistic, share)
            p = p_values([fit(x[half:])], [fit(new)], left_out)
        else:
            p = crossed(x, np.arange(images) % FOLDS, new, statistic, share, left_out)
        return p[:NEW], p[NEW:]

    how = "suspects leave the fit" if ranked else "suspects leave the fit and the ranks"
    way = "two halves" if split else "five folds"
    return Case(f"{dirt:.0%} dirty, suspect_share {share:g}, {how if share else 'no suspects'}, {way}", images, run)


def in_groups(lots: int, each: int, spread: float, *, together: bool) -> Case:
    """Return a case of lots with a mean of their own, whose deviation is ``spread``, and of new images of new lots."""

    def run(random: np.random.Generator, statistic: Statistic) -> tuple[Array, None]:
        means = spread * random.normal(size=(lots + NEW, 1, SIDE))
        x = (means[:lots] + random.normal(size=(lots, each, SIDE))).reshape(-1, SIDE)
        of_lot = random.permutation(lots) % FOLDS
        folds = np.repeat(of_lot, each) if together else random.permutation(lots * each) % FOLDS
        return crossed(x, folds, means[lots:, 0] + random.normal(size=(NEW, SIDE)), statistic), None

    how = "lots kept in one fold" if together else "lots in several folds"
    return Case(f"{lots} lots of {each}, deviation between lots {spread:g}, {how}", lots * each, run)


def unequal(images: int) -> Case:
    """Return a case of folds of which one has two fifths of the images, the most that a split allows."""

    def run(random: np.random.Generator, statistic: Statistic) -> tuple[Array, None]:
        folds = np.concatenate([np.zeros(2 * images // 5, np.int64), 1 + np.arange(images - 2 * images // 5) % 4])
        x, new = random.normal(size=(images, SIDE)), random.normal(size=(NEW, SIDE))
        return crossed(x, folds, new, statistic), None

    return Case("one fold of two fifths", images, run)


def near_duplicates(images: int, share: float, size: int, *, together: bool) -> Case:
    """Return a case in which a share of the images are pairs that hardly differ; ``size`` is the values of an image."""

    def run(random: np.random.Generator, statistic: Statistic) -> tuple[Array, None]:
        pairs = round(share * images / 2)
        x, new = random.normal(size=(images, size)), random.normal(size=(NEW, size))
        x[pairs : 2 * pairs] = x[:pairs] + TWIN * random.normal(size=(pairs, size))
        folds = random.permutation(images) % FOLDS
        if together:
            folds[pairs : 2 * pairs] = folds[:pairs]
        return crossed(x, folds, new, statistic), None

    how = "pairs kept in one fold" if together else "pairs in several folds"
    return Case(f"{share:.0%} of the images in near-duplicate pairs of {size} values, {how}", images, run)


def copies(images: int, each: int, noise: float, *, one_rank: bool) -> Case:
    """Return a case of copies among the ranked images, which differ by ``noise``: each gives a rank, or one of them."""

    def run(random: np.random.Generator, statistic: Statistic) -> tuple[Array, None]:
        fit = statistic(random.normal(size=(100, SIDE)))
        different, new = random.normal(size=(images, 1, SIDE)), random.normal(size=(NEW, SIDE))
        ranked = different + noise * random.normal(size=(images, each, SIDE))
        kept = ranked[:, :1] if one_rank else ranked
        return p_values([fit(kept.reshape(-1, SIDE))], [fit(new)]), None

    how = "one rank a group" if one_rank else "a rank each"
    return Case(f"{images} images in {each} copies, noise {noise:g}, {how}", images * each, run)


def sizes(images: int, most: int, tested: int, *, relative: bool) -> Case:
    """Return a case of images of 1 to ``most`` tiles and new ones of ``tested`` tiles, T that of the largest place.

    ``relative``: T less a line in ln(tiles), divided by such a line of its deviation, both fitted to other images.
    """

    def largest(random: np.random.Generator, tiles: NDArray[np.int64]) -> Array:
        """Draw the largest of independent squared Mahalanobis distances: u ** (1 / n) is the largest of n uniform."""
        return np.asarray(chi2.isf(-np.expm1(np.log(random.random(len(tiles))) / (PLACES * tiles)), SIDE))

    def run(random: np.random.Generator, _statistic: Statistic) -> tuple[Array, None]:
        of_fit, of_ranks = random.integers(1, most + 1, (2, images))
        counts = of_fit, of_ranks, np.full(NEW, tested)
        values = [largest(random, tiles) for tiles in counts]
        if relative:
            logs = [np.log(tiles) for tiles in counts]
            mean = np.polyfit(logs[0], values[0], 1)
            spread = np.polyfit(logs[0], np.abs(values[0] - np.polyval(mean, logs[0])), 1)
            values = [
                (of_part - np.polyval(mean, at)) / np.polyval(spread, at)
                for of_part, at in zip(values, logs, strict=True)
            ]
        return p_values([values[1]], [values[2]]), None

    how = "ranked relative to their size" if relative else "ranked alike"
    return Case(f"calibrated on 1 to {most} tiles, new images of {tested} tiles, {how}", images, run)


def chosen_weights(images: int, candidates: int, *, by_ranked: bool) -> Case:
    """Return a case of a pixel model of few images: the ranked images also choose one of several fits.

    Three fifths of the images train. Candidates are Gaussian fits along a path of shrinkages, each to its own random
    half of the training images. The one is chosen that makes the other two fifths likeliest, or as many images that
    serve nothing else. Those two fifths give ranks of the standardised log-likelihood in five folds.
    """

    def run(random: np.random.Generator, _statistic: Statistic) -> tuple[Array, None]:
        size = 4 * SIDE
        root = np.diag(np.linspace(0.3, 2, size))
        x, other, new = (random.normal(size=(count, size)) @ root for count in (images, images, NEW))
        train, ranked = np.split(x, [3 * images // 5])
        chooses = ranked if by_ranked else other[: len(ranked)]
        best, likelihoods = -np.inf, None
        for shrinkage in np.linspace(0.02, 0.98, candidates):
            some = train[random.random(len(train)) < 0.5] if len(train) > 4 else train
            covariance = (1 - shrinkage) * (some.T @ some) / max(len(some), 1) + shrinkage * np.eye(size)
            covariance += 1e-3 * np.eye(size)
            precision, log_det = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
            of_all = [-0.5 * (np.einsum("ni,ij,nj->n", y, precision, y) + log_det) for y in (chooses, ranked, new)]
            if of_all[0].mean() > best:
                best, likelihoods = of_all[0].mean(), of_all[1:]
        assert likelihoods is not None
        ranks, of_new = (values[:, None] for values in likelihoods)
        return crossed(ranks, random.permutation(len(ranks)) % FOLDS, of_new, mahalanobis), None

    who = "the ranked images" if by_ranked else "other images"
    return Case(f"weights chosen among {candidates} by {who}", images, run)


def cases() -> Iterator[tuple[str, tuple[str, ...], list[Case]]]:
    """Yield each section with its statistics and its cases."""
    both, distance = tuple(STATISTICS), ("Mahalanobis",)
    policies = [(0.0, True), (0.05, False), (0.05, True), (0.1, False), (0.1, True)]
    yield (
        "Suspects",
        distance,
        [
            suspects(200, dirt, share, ranked=ranked, split=split)
            for split in (False, True)
            for dirt in (0.0, DIRT)
            for share, ranked in policies
        ],
    )
    yield (
        "Groups",
        both,
        [
            in_groups(lots, 200 // lots, spread, together=together)
            for spread in (0.5, 1.0)
            for lots in (5, 10, 40)
            for together in (True, False)
        ],
    )
    yield "Folds", both, [unequal(images) for images in (20, 100, 200)]
    yield (
        "Near duplicates",
        both,
        [
            near_duplicates(200, share, size, together=together)
            for size in (SIDE, WIDE)
            for share in (0.1, 0.3, 1.0)
            for together in (False, True)
        ],
    )
    yield (
        "Copies among the ranked images",
        distance,
        [
            copies(*counts, noise, one_rank=one_rank)
            for counts, noises in (((12, 4), (0.0, 0.1)), ((50, 2), (0.0, 0.1)), ((100, 1), (0.0,)))
            for noise in noises
            for one_rank in (False, True)
        ],
    )
    yield (
        "Images of several sizes",
        distance,
        [
            sizes(200, most, tested, relative=relative)
            for most, of_tests in ((9, (1, 4, 9, 25, 441)), (81, (1, 4, 9, 25, 81, 441)))
            for tested in of_tests
            for relative in (False, True)
        ],
    )
    yield (
        "Weights chosen by the images that rank",
        distance,
        [
            chosen_weights(images, candidates, by_ranked=by_ranked)
            for images in (50, 100, 399)
            for candidates in (5, 20)
            for by_ranked in (True, False)
        ],
    )


def rates(case: Case, statistic: Statistic, repetitions: int) -> dict[str, list[float]]:
    """Return the rates at each alpha of new good images, their standard errors, and the rates of dirty images."""
    flagged, found = [], []
    for seed in range(repetitions):
        p, p_dirty = case.run(np.random.default_rng(seed), statistic)
        flagged.append([float((p <= alpha).mean()) for alpha in ALPHAS])
        if p_dirty is not None:
            found.append([float((p_dirty <= alpha).mean()) for alpha in ALPHAS])
    return {
        "false alarms": np.mean(flagged, axis=0).tolist(),
        "errors": (np.std(flagged, axis=0, ddof=1) / np.sqrt(repetitions)).tolist(),
        "found": np.mean(found, axis=0).tolist() if found else [],
    }


def report(repetitions: int, sections: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# False-alarm rates of ranks, simulated",
        "",
        f"`python -m benchmarks.rank_rates --repetitions {repetitions}`. Each rate is the mean of {repetitions:,} "
        f"repetitions with {NEW} new images each, and its standard error.",
    ]
    for title, rows in sections.items():
        heads = ["case", "images", "statistic", *(f"false alarms at {alpha:.0%}" for alpha in ALPHAS)]
        heads += [f"dirty images found at {alpha:.0%}" for alpha in ALPHAS] if rows[0]["found"] else []
        cells = [
            (
                *(row[name] for name in ("case", "images", "statistic")),
                *(f"{r:.2%} ± {error:.2%}" for r, error in zip(row["false alarms"], row["errors"], strict=True)),
                *(f"{rate:.1%}" for rate in row["found"]),
            )
            for row in rows
        ]
        lines += ["", f"## {title}", "", *table(heads, cells)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of("rank_rates", __doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sections: dict[str, list[dict[str, Any]]] = {}
    for title, statistics, of_section in cases():
        rows = sections.setdefault(title, [])
        for case in of_section:
            for name in statistics:
                row = rates(case, STATISTICS[name], arguments.repetitions)
                rows.append({"case": case.name, "images": case.images, "statistic": name, **row})
                print(title, rows[-1], flush=True)
    document = {"repetitions": arguments.repetitions, "new": NEW, "alphas": ALPHAS, "sections": sections}
    write_results(arguments.out, "rank_rates", document, report(arguments.repetitions, sections))


if __name__ == "__main__":
    main()
