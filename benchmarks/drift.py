"""False alarms of the drift test in an endless stream of exchangeable images, by threshold.

``python -m benchmarks.drift [--images 4000000] [--window 500]``

Images are normal numbers, which are as good as any others: a p-value sees ranks alone. Every calibration set gets a
stream of its own, and the window is looked at every 25 images. An alarm starts and ends as in the service, and counts
once.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console

from app.drift.windows import CALM
from models.anomaly.conformal import p_values as conformal_p_values
from models.anomaly.conformal import smallest_p
from models.anomaly.drift import drift_test
from models.atomic_files import write_atomically

RESULTS = Path(__file__).parent / "results"
LEVELS = (1e-3, 1e-4, 1e-5)
STREAM = 50_000
EVERY = 25


def starts(generator: np.random.Generator, calibration_images: int, window: int) -> Counter[float]:
    """Alarms that start in one stream, by threshold."""
    reference = np.sort(generator.normal(size=calibration_images))
    p_values = conformal_p_values([reference], [generator.normal(size=STREAM + window)])
    smallest = smallest_p(calibration_images)
    found: Counter[float] = Counter()
    lasting: set[float] = set()
    for recent in sliding_window_view(p_values, window)[::EVERY]:
        now = drift_test(recent, calibration_images, smallest, LEVELS[0]).p_value
        found.update(level for level in LEVELS if now <= level and level not in lasting)
        lasting = {level for level in LEVELS if now <= (CALM * level if level in lasting else level)}
    return found


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
            "alarms_per_million_images": {f"{level:g}": round(total[level] / millions, 2) for level in LEVELS},
        }
        Console().print(row)
        result.append(row)
    document = {"window": arguments.window, "look_every": EVERY, "sizes": result}
    write_atomically(RESULTS / "drift.json", (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
