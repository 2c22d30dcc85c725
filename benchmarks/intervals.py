"""How often intervals with a stated confidence contain the truth.

``python -m benchmarks.intervals [--repetitions 2000]``

Scores are drawn from mixtures of normal distributions whose true AUROC, average precision and false-positive rate are
integrals of them. Nothing of the product is used but the functions that return intervals.

- ``equal``, ``wide``, ``narrow``: anomalies are shifted, and spread as normal images do, by 2, or by 0.5.
- ``hidden``: all anomalies are far away but for a share that looks like normal images.
- ``odd``: all normal images are far away from the anomalies but for a share that looks like them.
- ``tied``: as ``equal``, rounded to one of about twelve values.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.stats import norm

from benchmarks.common import RESULTS, parser_of, table, write_results
from snf_models.anomaly.exchangeability import false_alarm_interval, safe_threshold
from snf_models.evaluation.metrics import auroc_gain, intervals
from snf_models.limits.measure import limit_cell, limit_curve

Array = NDArray[np.float64]

AUROCS = (0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
SIZES = ((20, 20), (50, 50), (100, 100), (200, 200), (1000, 1000), (500, 50), (50, 500), (1000, 20), (20, 1000))
METRICS = ("AUROC", "average precision", "FPR at 95 % TPR")
GAINS = ((0.9, 0.9), (0.95, 0.9), (0.99, 0.99), (0.99, 0.95), (0.999, 0.999), (0.999, 0.99))
GAIN_SIZES = ((20, 20), (50, 50), (100, 100), (1000, 1000), (500, 50), (50, 500))
CORRELATIONS = (0.0, 0.5, 0.9)
FAR = 12.0
STEP = 0.5
GRID = np.linspace(-20, 45, 65_001)


class Scores(NamedTuple):
    """Shares, means and standard deviations of the normal distributions of a mixture."""

    shares: Array
    means: Array
    deviations: Array

    @classmethod
    def of(cls, *parts: tuple[float, float, float]) -> Scores:
        return cls(*np.array(parts).T)

    def draw(self, generator: np.random.Generator, *shape: int) -> Array:
        part = generator.choice(len(self.shares), size=shape, p=self.shares)
        drawn: Array = self.means[part] + self.deviations[part] * generator.normal(size=shape)
        return drawn

    def exceed(self, value: Array | float) -> Array:
        shifted = (np.asarray(value)[..., None] - self.means) / self.deviations
        total: Array = (self.shares * norm.sf(shifted)).sum(-1)
        return total


def family(name: str, auroc: float) -> tuple[Scores, Scores]:
    usual = Scores.of((1, 0, 1))
    share = 2 * (1 - auroc)
    if name == "hidden":
        return usual, Scores.of((1 - share, FAR, 1), (share, 0, 1))
    if name == "odd":
        return Scores.of((1 - share, 0, 1), (share, FAR, 1)), Scores.of((1, FAR, 1))
    spread = {"equal": 1.0, "tied": 1.0, "wide": 2.0, "narrow": 0.5}[name]
    return usual, Scores.of((1, norm.ppf(auroc) * np.hypot(1, spread), spread))


FAMILIES = ("equal", "wide", "narrow", "hidden", "odd", "tied")


def truth(name: str, auroc: float, n: int, m: int) -> tuple[float, float, float]:
    """Return the true AUROC, average precision and FPR of ``n`` normal and ``m`` anomalous images."""
    normal, strange = family(name, auroc)
    edges = np.arange(-60, 120) * STEP - STEP / 2 if name == "tied" else GRID
    false, true = normal.exceed(edges), strange.exceed(edges)
    own = -np.diff(true)
    if name == "tied":
        # All scores of a cell are equal, and so at least the value at which it begins.
        auroc = float((own * (1 - (false[:-1] + false[1:]) / 2)).sum())
        normal_share, strange_share, fpr = false[:-1], true[:-1], float(false[np.flatnonzero(true >= 0.95)[-1]])
    else:
        normal_share, strange_share = ((of[:-1] + of[1:]) / 2 for of in (false, true))
        fpr = float(np.interp(-0.95, -true, false))
    precision = m * strange_share / np.maximum(m * strange_share + n * normal_share, 1e-300)
    return auroc, float((own * precision).sum()), fpr


def drawn(name: str, auroc: float, n: int, m: int, generator: np.random.Generator) -> tuple[Array, Array]:
    normal, strange = (of.draw(generator, size) for of, size in zip(family(name, auroc), (n, m), strict=True))
    if name == "tied":
        normal, strange = (np.round(of / STEP) * STEP for of in (normal, strange))
    return normal, strange


class Coverage:
    """Counts of intervals that lie above or below the truth, by setting."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, setting: dict[str, Any], found: list[tuple[float, float]], true: float) -> None:
        low, high = np.array(found).T
        above, below = float((low > true + 1e-9).mean()), float((high < true - 1e-9).mean())
        width = round(float((high - low).mean()), 4)
        shares = {"covered": round(1 - above - below, 4), "above": above, "below": below, "width": width}
        self.rows.append(setting | {"true": round(true, 5)} | shares)


def separations(repetitions: int, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Coverage of the intervals of the metrics of one score."""
    found = {metric: Coverage() for metric in METRICS}
    settings = [(name, auroc, *sizes) for name in FAMILIES for sizes in SIZES for auroc in AUROCS]
    for number, (name, auroc, n, m) in enumerate(progress.track(settings, description="one score")):
        generator = np.random.default_rng((1, number))
        rows = [intervals(*drawn(name, auroc, n, m, generator)) for _ in range(repetitions)]
        setting = {"scores": name, "normal": n, "anomalous": m}
        for metric, of, true in zip(METRICS, zip(*rows, strict=True), truth(name, auroc, n, m), strict=True):
            found[metric].add(setting, list(of), true)
    return {metric: of.rows for metric, of in found.items()}


def gains(repetitions: int, progress: Progress) -> list[dict[str, Any]]:
    """Coverage of the interval of the difference of two AUROCs on the same images, whose scores are correlated."""
    found = Coverage()
    settings = [
        (name, *pair, *sizes, correlation)
        for name in ("equal", "hidden")
        for sizes in GAIN_SIZES
        for pair in GAINS
        for correlation in CORRELATIONS
    ]
    for number, (name, one, other, n, m, correlation) in enumerate(progress.track(settings, description="two scores")):
        generator = np.random.default_rng((3, number))
        rows = []
        for _ in range(repetitions):
            normal, strange = (correlated(generator, size, correlation) for size in (n, m))
            if name == "hidden":
                # The same image is hidden from both scores as often as the correlation says.
                uniform = generator.random((2, m))
                uniform[1] = np.where(generator.random(m) < correlation, uniform[0], uniform[1])
                strange += np.where(uniform < 2 * (1 - np.array([[one], [other]])), 0, FAR)
            else:
                strange += np.sqrt(2) * norm.ppf(np.array([[one], [other]]))
            rows.append(auroc_gain((normal[0], normal[1]), (strange[0], strange[1]))[1])
        setting = {"scores": name, "normal": n, "anomalous": m, "aurocs": [one, other], "correlation": correlation}
        found.add(setting, rows, one - other)
    return found.rows


def correlated(generator: np.random.Generator, size: int, correlation: float) -> Array:
    one, other = generator.normal(size=(2, size))
    return np.stack([one, correlation * one + np.sqrt(1 - correlation**2) * other])


def calibrations(repetitions: int) -> list[dict[str, Any]]:
    """Shares in which the stated false-alarm rate is kept, and in which false alarms are in their interval."""
    rows = []
    for n in (20, 65, 299, 1000):
        for alpha in (0.01, 0.05, 0.1):
            generator = np.random.default_rng((4, n, round(1000 * alpha)))
            # The false-alarm rate of a threshold at the k-th of n ranks.
            ordered = np.sort(generator.random((repetitions, n)), axis=1)
            threshold, tests = safe_threshold(n, alpha), 200
            kept = None if threshold is None else float((ordered[:, round(threshold * (n + 1)) - 1] <= alpha).mean())
            rank = int(alpha * (n + 1) + 1e-9)
            rates = ordered[:, rank - 1] if rank else np.zeros(repetitions)
            shares = generator.binomial(tests, rates) / tests
            low, high = false_alarm_interval(n, tests, alpha)
            inside = float(((low <= shares) & (shares <= high)).mean())
            rows.append({"calibration_images": n, "alpha": alpha, "rate_kept": kept, "in_99_interval": inside})
    return rows


def limits(repetitions: int) -> list[dict[str, Any]]:
    """Share of detection limits from which on the true found share is at least 90 %, at all sizes.

    Defects larger than 12 are nearly always found, others with one probability.
    """
    rows = []
    sizes = (2, 3, 4, 6, 8, 12, 16, 24, 32)
    for images in (29, 60, 200, 1000):
        for share in (0.5, 0.8, 0.899):
            generator = np.random.default_rng((5, images, round(1000 * share)))
            found = np.where(np.array(sizes) > 12, 0.999, share)
            right = 0
            for _ in range(repetitions):
                # An image is hard at all sizes.
                hard = generator.random(images)
                cells = [
                    limit_cell(size, int((hard < share).sum()), images)
                    for size, share in zip(sizes, found, strict=True)
                ]
                limit = limit_curve("spot", 64, cells).limit
                right += limit is None or bool(all(found[sizes.index(limit) :] >= 0.9))
            rows.append({"images": images, "found": share, "right": right / repetitions})
    return rows


def summary(name: str, rows: list[dict[str, Any]]) -> list[str]:
    covered = np.array([row["covered"] for row in rows])
    worst = rows[int(covered.argmin())]
    where = ", ".join(f"{worst[name]}" for name in ("scores", "normal", "anomalous", "true"))
    quantile = np.quantile(covered, 0.05)
    return [name, f"{len(rows)}", f"{covered.min():.1%}", where, f"{quantile:.1%}", f"{covered.mean():.1%}"]


def report(document: dict[str, Any]) -> str:
    repetitions = document["repetitions"]
    metrics = document["separations"] | {"difference of two AUROCs": document["gains"]}
    heads = ("interval of", "settings", "worst", "of (scores, normal, anomalous, true value)", "5 % quantile", "mean")
    lines = [
        "# How often intervals contain the truth",
        "",
        f"By `python -m benchmarks.intervals` in {document['seconds']:,} s on one thread: {repetitions:,} repetitions "
        f"of each setting, whose shares have a standard error of {np.sqrt(0.95 * 0.05 / repetitions):.1%}.",
        "",
        "## 95 % intervals of an evaluation",
        "",
        f"True AUROC {AUROCS[0]} to {AUROCS[-1]}, {SIZES[0][0]} to {SIZES[4][0]:,} normal and anomalous images.",
        "",
        *table(heads, [summary(*item) for item in metrics.items()]),
        "",
        "## Rates of a calibration",
        "",
        "Of thresholds that keep alpha with 95 % confidence, and of false alarms of 200 images in the 99 % interval.",
        "",
        *table(
            ("calibration images", "alpha", "alpha kept", "in the 99 % interval"),
            [
                (
                    f"{row['calibration_images']:,}",
                    f"{row['alpha']:g}",
                    "-" if row["rate_kept"] is None else f"{row['rate_kept']:.1%}",
                    f"{row['in_99_interval']:.1%}",
                )
                for row in document["calibrations"]
            ],
        ),
        "",
        "## Detection limits",
        "",
        "Share of runs in which at least 90 % are truly found at the limit and at all larger sizes (confidence 95 %).",
        "",
        *table(
            ("images", "truly found below size 16", "right"),
            [(f"{row['images']:,}", f"{row['found']:.1%}", f"{row['right']:.1%}") for row in document["limits"]],
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of("intervals", __doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    start = time.process_time()
    with Progress() as progress:
        document: dict[str, Any] = {
            "repetitions": repetitions,
            "separations": separations(repetitions, progress),
            "gains": gains(repetitions, progress),
            "calibrations": calibrations(repetitions),
            "limits": limits(repetitions),
        }
    document["seconds"] = round(time.process_time() - start)
    text = report(document)
    print(text)
    write_results(RESULTS, "intervals", document, text, indent=None)


if __name__ == "__main__":
    main()
