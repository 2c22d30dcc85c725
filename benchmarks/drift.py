"""False alarms of the drift tests without drift, and images until an alarm after a change.

``python -m benchmarks.drift [--streams 1000] [--images 2000000]``

Images are pairs of independent normal numbers. The anomaly statistic is -ln of the probability of a larger first one.
The second number, rounded to one of about 60 levels, is the white level. Every stream has a calibration set of its own.
``python -m benchmarks.drift_ties`` has streams of real statistics.

- ``windows``: false alarms of the Kolmogorov-Smirnov tests in endless streams, by threshold. The window is tested every
  25 images. An alarm starts and ends as in the service, and counts once.
- ``exchangeable``: streams without drift in which the martingale ever reaches a capital, after any image. As a
  counter-example, the same bets on ranks among the calibration images alone.
- ``delays``: images from a change to the alarm of each test, as ``DriftWindows`` raises it, tested every 5 images.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy.stats import norm

from app.drift.judge import CALM
from app.drift.window import Key, WindowReference
from app.drift.windows import DriftWindows
from models.anomaly.conformal_martingale import ConformalMartingale, RankCounts
from models.anomaly.drift import drift_test, level_test
from models.atomic_files import write_atomically
from snf_runtime.anomaly.conformal import CELLS, smallest_p, statistic_cells
from snf_runtime.anomaly.conformal import p_values as conformal_p_values
from snf_runtime.scoring.white_level import LEVELS
from worker.service_settings import ServiceSettings

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results"
THRESHOLDS = (1e-3, 1e-4, 1e-5)
STREAM = 50_000
EVERY = 25

CALIBRATION = 1000
LONG = 100_000
CAPITALS = (10, 100, 1000)
COUNTER_EXAMPLES = 100
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


def starts(generator: np.random.Generator, calibration_images: int, window: int) -> Counter[float]:
    """Alarms that start in one stream, by threshold."""
    reference = np.sort(generator.normal(size=calibration_images))
    p_values = conformal_p_values([reference], [generator.normal(size=STREAM + window)])
    smallest = smallest_p(calibration_images)
    usual = np.bincount(white_levels(generator, calibration_images), minlength=LEVELS)
    levels = white_levels(generator, STREAM + window)
    found: Counter[float] = Counter()
    lasting: set[float] = set()
    views = (sliding_window_view(values, window)[::EVERY] for values in (p_values, levels))
    for recent, light in zip(*views, strict=True):
        of_p_values = drift_test(recent, calibration_images, smallest, THRESHOLDS[0]).p_value
        now = 2 * min(of_p_values, level_test(light, usual).p_value)
        found.update(level for level in THRESHOLDS if now <= level and level not in lasting)
        lasting = {level for level in THRESHOLDS if now <= (CALM * level if level in lasting else level)}
    return found


def white_levels(generator: np.random.Generator, images: int, shift: float = 0.0) -> NDArray[np.int64]:
    """Return white levels of images of one scene: normal with a deviation of 10 about 200."""
    return np.rint(np.clip(generator.normal(200 + shift, 10, images), 0, LEVELS - 1)).astype(np.int64)


def windows(images: int, window: int, progress: Progress) -> list[dict[str, Any]]:
    """False alarms of the Kolmogorov-Smirnov tests, by size of the calibration set and threshold."""
    streams = max(1, images // STREAM)
    result = []
    for size in (100, 500, 5000):
        generator = np.random.default_rng(size)
        total: Counter[float] = Counter()
        for _ in progress.track(range(streams), description=f"windows, {size} calibration images"):
            total += starts(generator, size, window)
        millions = streams * STREAM / 1e6
        row = {
            "calibration_images": size,
            "images": streams * STREAM,
            "alarms_per_million_images": {f"{level:g}": round(total[level] / millions, 2) for level in THRESHOLDS},
        }
        result.append(row)
    return result


def exchangeable(streams: int, progress: Progress) -> dict[str, Any]:
    """Streams without drift in which the martingale of the service, and that of other ranks, ever reach a capital."""
    reached, reached_alone, first_alone = Counter[int](), Counter[int](), []
    counter_examples = min(streams, COUNTER_EXAMPLES)
    for seed in progress.track(range(streams), description=f"{LONG:,} images without drift"):
        generator = np.random.default_rng((1, seed))
        reference, stream = generator.exponential(size=CALIBRATION), generator.exponential(size=LONG)
        p_values = conformal_p_values([np.sort(reference)], [stream])
        ranks = RankCounts.of(counts(reference)).add(statistic_cells(stream))
        usual = np.bincount(white_levels(generator, CALIBRATION), minlength=LEVELS)
        light = RankCounts.of(usual).add(white_levels(generator, LONG))
        # Each of two capitals must reach twice the threshold.
        highest = max(capital(ranks).max(), capital(light).max()) - math.log(2)
        reached.update(limit for limit in CAPITALS if highest >= math.log(limit))
        if seed < counter_examples:
            # Uniform too, but dependent.
            alone = capital(p_values - generator.random(LONG) / (CALIBRATION + 1))
            reached_alone.update(limit for limit in CAPITALS if alone.max() >= math.log(limit))
            first_alone.append(first(alone >= math.log(CAPITALS[-1])))
    found = [image for image in first_alone if image is not None]
    return {
        "streams": streams,
        "images": LONG,
        "calibration_images": CALIBRATION,
        "reached": {str(limit): reached[limit] for limit in CAPITALS},
        "allowed": {str(limit): streams / limit for limit in CAPITALS},
        "ranks_among_calibration_alone": {
            "streams": counter_examples,
            "reached": {str(limit): reached_alone[limit] for limit in CAPITALS},
            "median_images_to_alarm": float(np.median(found)) if found else None,
        },
    }


def counts(statistics: Array) -> NDArray[np.int64]:
    """Number of images in each cell of the martingale."""
    return np.bincount(statistic_cells(statistics), minlength=CELLS)


def capital(ranks: Array) -> Array:
    """Logarithm of the capital after each image."""
    martingale = ConformalMartingale()
    return np.concatenate([martingale.bet(ranks[start : start + PART]) for start in range(0, len(ranks), PART)])


def first(condition: NDArray[np.bool_]) -> int | None:
    """Number of images until a condition is first true."""
    return int(condition.argmax()) + 1 if condition.any() else None


def delays(streams: int, progress: Progress) -> list[dict[str, Any]]:
    """Images from a change to the alarms of the tests, by change and by images before it."""
    rows = []
    for change, (shift, spread, darker) in CHANGES.items():
        for before in BEFORE:
            found: dict[str, list[float]] = {"windows": [], "martingale": []}
            for seed in progress.track(range(streams), description=f"{change}, after {before:,} images"):
                generator = np.random.default_rng((2, seed))
                reference = -norm.logsf(np.sort(generator.normal(size=CALIBRATION)))
                usual = np.bincount(white_levels(generator, CALIBRATION), minlength=LEVELS)
                changed = shift + spread * generator.normal(size=AFTER)
                evidence = -norm.logsf(np.concatenate([generator.normal(size=before), changed]))
                levels = np.concatenate([white_levels(generator, before), white_levels(generator, AFTER, darker)])
                for name, images in alarms(reference, evidence, levels, usual, before).items():
                    found[name].append(images)
            rows.append({"change": change, "images_before": before, "streams": streams} | quantiles(found))
    return rows


def alarms(
    calibration: Array, evidence: Array, levels: NDArray[np.int64], usual: NDArray[np.int64], before: int
) -> dict[str, float]:
    """Images from the change to the alarms of the service with its default settings; infinite without an alarm."""
    settings = ServiceSettings.model_fields
    watched = DriftWindows(
        images=settings["drift_images"].default,
        min_images=settings["drift_min_images"].default,
        level=settings["drift_alarm"].default,
        threshold=settings["drift_martingale"].default,
        sources=1,
    )
    key = Key("model", 1, 0)
    p_values, of_cells = conformal_p_values([calibration], [evidence]), tuple(counts(calibration).tolist())
    reference = WindowReference("", CALIBRATION, smallest_p(CALIBRATION), tuple(usual.tolist()), of_cells)
    found = {"windows": math.inf, "martingale": math.inf}
    batches = [slice(0, before)] if before else []
    batches += [slice(start, start + DELAY_EVERY) for start in range(before, len(p_values), DELAY_EVERY)]
    for batch in batches:
        of_batch = (of[batch].tolist() for of in (levels, evidence))
        watched.record(key, reference, None, p_values[batch].tolist(), 0.0, *of_batch)
        (status,) = watched.status(key, 0.0)
        names = {"martingale" if name == "martingale" else "windows" for name in status.alarm_by}
        for name in names:
            found[name] = min(found[name], max(0, batch.stop - before))
        if math.inf not in found.values():
            break
    return found


def quantiles(found: dict[str, list[float]]) -> dict[str, Any]:
    """Median and 90 % quantile of the images to an alarm, None if so many streams have none; streams without alarm."""
    result: dict[str, Any] = {}
    for name, images in found.items():
        middle, late = (float(np.quantile(images, share, method="higher")) for share in (0.5, 0.9))
        result[name] = {
            "median": None if math.isinf(middle) else round(middle),
            "ninety_percent": None if math.isinf(late) else round(late),
            "without_alarm": sum(map(math.isinf, images)),
        }
    return result


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    streams = document["exchangeable"]
    alone = streams["ranks_among_calibration_alone"]
    lines = [
        "# Drift tests",
        "",
        f"By `python -m benchmarks.drift` in {document['seconds']:.0f} s on one thread.",
        "",
        f"## Without drift: {streams['streams']:,} streams of {streams['images']:,} images, "
        f"{streams['calibration_images']:,} calibration images each",
        "",
        "| capital | streams that ever reach it | allowed | "
        f"of {alone['streams']} streams, by ranks among the calibration images alone |",
        "|---|---|---|---|",
        *(
            f"| {int(limit):,} | {reached} | {streams['allowed'][limit]:g} | {alone['reached'][limit]} |"
            for limit, reached in streams["reached"].items()
        ),
        "",
        "By ranks among the calibration images alone, the median alarm comes after "
        f"{alone['median_images_to_alarm']:,.0f} images.",
        "",
        "## Images from a change to the alarm",
        "",
        f"Median / 90 % of {document['delays'][0]['streams']} streams, tested every {DELAY_EVERY} images. `-`: so many "
        f"streams have no alarm within {AFTER:,} images.",
        "",
        "| change | images before it | Kolmogorov-Smirnov tests | martingale |",
        "|---|---|---|---|",
        *(
            f"| {row['change']} | {row['images_before']:,} | {delay(row['windows'])} | {delay(row['martingale'])} |"
            for row in document["delays"]
        ),
        "",
        f"## False alarms of the Kolmogorov-Smirnov tests in a million images, window of {document['window']}",
        "",
        "| calibration images | " + " | ".join(f"threshold {level:g}" for level in THRESHOLDS) + " |",
        "|---" * (len(THRESHOLDS) + 1) + "|",
        *(
            f"| {row['calibration_images']:,} | "
            + " | ".join(f"{row['alarms_per_million_images'][f'{level:g}']:g}" for level in THRESHOLDS)
            + " |"
            for row in document["sizes"]
        ),
    ]
    return "\n".join(lines) + "\n"


def delay(found: dict[str, Any]) -> str:
    """Return median and 90 % quantile as text."""
    return " / ".join("-" if found[name] is None else f"{found[name]:,}" for name in ("median", "ninety_percent"))


def main() -> None:
    """Simulate, print, and write ``results/drift.json`` and ``results/drift.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000, help="streams without drift for the martingale")
    parser.add_argument("--delay-streams", type=int, default=DELAY_STREAMS, help="streams for each change")
    parser.add_argument("--images", type=int, default=2_000_000, help="images for each size of the calibration set")
    parser.add_argument("--window", type=int, default=500)
    arguments = parser.parse_args()
    logging.disable()  # every alarm is logged
    start = time.process_time()
    with Progress() as progress:
        document: dict[str, Any] = {
            "exchangeable": exchangeable(arguments.streams, progress),
            "delays": delays(arguments.delay_streams, progress),
            "window": arguments.window,
            "look_every": EVERY,
            "sizes": windows(arguments.images, arguments.window, progress),
        }
    document["seconds"] = round(time.process_time() - start)
    text = report(document)
    Console().print(text, markup=False, highlight=False)
    write_atomically(RESULTS / "drift.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(RESULTS / "drift.md", text.encode())


if __name__ == "__main__":
    main()
