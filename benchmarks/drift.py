"""False alarms of the drift test without drift, and images until an alarm after a change.

``python -m benchmarks.drift [--streams 2000]``

Images are pairs of independent normal numbers. The anomaly statistic is -ln of the probability of a larger first one.
The second number, rounded to one of about 60 levels, is the white level. Every stream has a calibration set of its own.

- ``exchangeable``: streams without drift in which the martingale ever reaches a capital, after any image. One statistic
  in twenty is equal to others.
- ``delays``: images from a change to the alarm, as ``Stream`` raises it, looked at every 5 images.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from scipy.stats import norm

from benchmarks.common import RESULTS, parser_of, table, write_results
from snf_app.drift.service import DriftReference, Stream
from snf_models.anomaly.exchangeability import ConformalMartingale, RankCounts
from snf_runtime.anomaly.calibration import CELLS, statistic_cells
from snf_runtime.scoring.evidence import LEVELS
from snf_worker.settings import Settings

Array = NDArray[np.float64]

CALIBRATION = 1000
LONG = 100_000
CAPITALS = (10, 100, 1000)
FLOOR = 0.05
"""Smallest statistic in nats, of 5 % of the images: a fitted statistic is constant below its first point."""
PART = 1000
"""Images that are bet on at once; the result does not depend on it."""

CHANGES = {
    "evidence + 0.25 standard deviations": (0.25, 1.0, 0.0),
    "evidence + 1 standard deviation": (1.0, 1.0, 0.0),
    "evidence spreads by 1.3": (0.0, 1.3, 0.0),
    "light - 5 levels, half a standard deviation": (0.0, 1.0, -5.0),
}
BEFORE = (0, 1000, 20_000)
AFTER = 4000
DELAY_EVERY = 5
DELAY_STREAMS = 60


def white_levels(generator: np.random.Generator, images: int, shift: float = 0.0) -> NDArray[np.int64]:
    """Return white levels of images of one scene: normal with a deviation of 10 about 200."""
    return np.rint(np.clip(generator.normal(200 + shift, 10, images), 0, LEVELS - 1)).astype(np.int64)


def exchangeable(streams: int, progress: Progress) -> dict[str, Any]:
    """Streams without drift in which the martingale of the service ever reaches a capital."""
    reached = Counter[int]()
    for seed in progress.track(range(streams), description=f"{LONG:,} images without drift"):
        generator = np.random.default_rng((1, seed))
        reference, stream = (np.maximum(generator.exponential(size=size), FLOOR) for size in (CALIBRATION, LONG))
        ranks = RankCounts.of(counts(reference)).add(statistic_cells(stream))
        usual = np.bincount(white_levels(generator, CALIBRATION), minlength=LEVELS)
        light = RankCounts.of(usual).add(white_levels(generator, LONG))
        # Each of two capitals must reach twice the threshold.
        highest = max(capital(ranks).max(), capital(light).max()) - math.log(2)
        reached.update(limit for limit in CAPITALS if highest >= math.log(limit))
    return {
        "streams": streams,
        "images": LONG,
        "calibration_images": CALIBRATION,
        "reached": {str(limit): reached[limit] for limit in CAPITALS},
        "allowed": {str(limit): streams / limit for limit in CAPITALS},
    }


def counts(statistics: Array) -> NDArray[np.int64]:
    return np.bincount(statistic_cells(statistics), minlength=CELLS)


def capital(ranks: Array) -> Array:
    martingale = ConformalMartingale()
    return np.concatenate([martingale.bet(ranks[start : start + PART]) for start in range(0, len(ranks), PART)])


def delays(streams: int, progress: Progress) -> list[dict[str, Any]]:
    """Images from a change to the alarm, by change and by images before it."""
    rows = []
    for change, (shift, spread, darker) in CHANGES.items():
        for before in BEFORE:
            found = []
            for seed in progress.track(range(streams), description=f"{change}, after {before:,} images"):
                generator = np.random.default_rng((2, seed))
                reference = -norm.logsf(np.sort(generator.normal(size=CALIBRATION)))
                usual = np.bincount(white_levels(generator, CALIBRATION), minlength=LEVELS)
                changed = shift + spread * generator.normal(size=AFTER)
                evidence = -norm.logsf(np.concatenate([generator.normal(size=before), changed]))
                levels = np.concatenate([white_levels(generator, before), white_levels(generator, AFTER, darker)])
                of_cells = {"statistic": counts(reference), "white-level": usual}
                calibration = DriftReference("", {name: tuple(of.tolist()) for name, of in of_cells.items()})
                found.append(alarm(calibration, evidence, levels, before))
            rows.append({"change": change, "images_before": before, "streams": streams} | quantiles(found))
    return rows


def alarm(calibration: DriftReference, evidence: Array, levels: NDArray[np.int64], before: int) -> float:
    """Images from the change to the alarm of the service with its default settings; infinite without an alarm."""
    threshold = Settings.model_fields["drift_martingale"].default
    stream = Stream.start(calibration, 0.0)
    batches = [slice(0, before)] if before else []
    batches += [slice(start, start + DELAY_EVERY) for start in range(before, len(evidence), DELAY_EVERY)]
    for batch in batches:
        stream.new_statistics += evidence[batch].tolist()
        stream.new_white_levels += levels[batch].tolist()
        stream.bet()
        stream.update_alarm(threshold, "model", 0.0)
        if stream.alarm_since is not None:
            return max(0, batch.stop - before)
    return math.inf


def quantiles(found: list[float]) -> dict[str, Any]:
    """Median and 90 % quantile of the images to an alarm, None if so many streams have none; streams without alarm."""
    middle, late = (float(np.quantile(found, share, method="higher")) for share in (0.5, 0.9))
    return {
        "median": None if math.isinf(middle) else round(middle),
        "ninety_percent": None if math.isinf(late) else round(late),
        "without_alarm": sum(map(math.isinf, found)),
    }


def report(document: dict[str, Any]) -> str:
    streams = document["exchangeable"]
    lines = [
        "# Drift test",
        "",
        f"By `python -m benchmarks.drift` in {document['seconds']:.0f} s on one thread.",
        "",
        f"## Without drift: {streams['streams']:,} streams of {streams['images']:,} images, "
        f"{streams['calibration_images']:,} calibration images each, {1 - math.exp(-FLOOR):.0%} of them equal",
        "",
        *table(
            ("capital", "streams that ever reach it", "allowed"),
            [
                (f"{int(limit):,}", reached, f"{streams['allowed'][limit]:g}")
                for limit, reached in streams["reached"].items()
            ],
        ),
        "",
        "## Images from a change to the alarm",
        "",
        f"Median / 90 % of {document['delays'][0]['streams']} streams, looked at every {DELAY_EVERY} images. `-`: so "
        f"many streams have no alarm within {AFTER:,} images.",
        "",
        *table(
            ("change", "images before it", "images to the alarm"),
            [(row["change"], f"{row['images_before']:,}", delay(row)) for row in document["delays"]],
        ),
    ]
    return "\n".join(lines) + "\n"


def delay(found: dict[str, Any]) -> str:
    return " / ".join("-" if found[name] is None else f"{found[name]:,}" for name in ("median", "ninety_percent"))


def main() -> None:
    parser = parser_of("drift", __doc__)
    parser.add_argument("--streams", type=int, default=2000, help="streams without drift")
    parser.add_argument("--delay-streams", type=int, default=DELAY_STREAMS, help="streams for each change")
    arguments = parser.parse_args()
    logging.disable()  # every alarm is logged
    start = time.process_time()
    with Progress() as progress:
        document: dict[str, Any] = {
            "exchangeable": exchangeable(arguments.streams, progress),
            "delays": delays(arguments.delay_streams, progress),
        }
    document["seconds"] = round(time.process_time() - start)
    text = report(document)
    print(text)
    write_results(RESULTS, "drift", document, text)


if __name__ == "__main__":
    main()
