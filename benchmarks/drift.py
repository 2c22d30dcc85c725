"""False alarms of the drift tests in an endless stream of exchangeable images, by threshold.

``python -m benchmarks.drift [--images 4000000] [--window 500]``

Images are pairs of independent normal numbers, which are as good as any others: a p-value sees ranks alone. The second
number, rounded to one of about 60 levels, is the white level. Every calibration set gets a stream of its own, and the
window is looked at every 25 images. An alarm starts and ends as in the service, and counts
once.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.console import Console

from app.drift.windows import CALM
from models.anomaly.conformal import p_values as conformal_p_values
from models.anomaly.conformal import smallest_p
from models.anomaly.drift import drift_test, level_test
from models.atomic_files import write_atomically
from models.scoring.white_level import LEVELS

RESULTS = Path(__file__).parent / "results"
THRESHOLDS = (1e-3, 1e-4, 1e-5)
STREAM = 50_000
EVERY = 25


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


def white_levels(generator: np.random.Generator, images: int) -> NDArray[np.int64]:
    """Return white levels of images of one scene: normal with a deviation of 10 about 200."""
    return np.rint(np.clip(generator.normal(200, 10, images), 0, LEVELS - 1)).astype(np.int64)


def main() -> None:
    """Simulates, prints and writes ``results/drift.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4_000_000, help="images a size of the calibration set")
    parser.add_argument("--window", type=int, default=500)
    arguments = parser.parse_args()
    result = []
    for size in (100, 500, 5000):
        generator = np.random.default_rng(size)
        total: Counter[float] = Counter()
        streams = max(1, arguments.images // STREAM)
        for _ in range(streams):
            total += starts(generator, size, arguments.window)
        millions = streams * STREAM / 1e6
        row = {
            "calibration_images": size,
            "images": streams * STREAM,
            "alarms_per_million_images": {f"{level:g}": round(total[level] / millions, 2) for level in THRESHOLDS},
        }
        Console().print(row)
        result.append(row)
    document = {"window": arguments.window, "look_every": EVERY, "sizes": result}
    write_atomically(RESULTS / "drift.json", (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
