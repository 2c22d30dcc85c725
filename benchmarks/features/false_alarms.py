"""False alarms of feature models, and what is found, by the number of good images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.common import table
from benchmarks.features.cells import SolarCells
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import MEASURES, fitted_model

NAME = "false_alarms"
ALPHAS = (0.01, 0.05)
FOLDS = 5
COUNTS = {"solar cells": (60, 200, 400, 650, 1000), "T-shirts against shirts": (400, 650, 1000, 2000)}
"""Good images of a model. There are 1,508 functional solar cells, some of which are tested."""
DEFAULT = "found at the default alpha"
COLUMNS = (DEFAULT, *MEASURES[2:0:-1], *MEASURES[4:2:-1])
TESTED = 400
STRANGE = 715


def measure(run: FeatureRun) -> None:
    """Measure what has no result yet, and write after each run."""
    document = {"counts": {}, **run.known(NAME)}
    sets = {"solar cells": SolarCells.load(run), "T-shirts against shirts": shirts(run)}
    console = Console(stderr=True)
    for name, count in by_count():
        runs = document["counts"].setdefault(name, {}).setdefault(str(count), [])
        for seed in range(len(runs), run.some(run.extras["repetitions"], 1)):
            runs.append(of_count(run, sets[name], count, seed))
            run.write(NAME, document, report(document))
            console.print(name, count, runs[-1])
    print(report(document))


def by_count() -> list[tuple[str, int]]:
    return [(name, count) for name, counts in COUNTS.items() for count in counts]


def shirts(run: FeatureRun) -> SolarCells:
    """Return the images of Fashion-MNIST's class 0 as good ones and of class 6 as defective ones."""
    with np.load(run.data_dir / "fashion_mnist.npz", allow_pickle=False) as file:
        images, labels = file["x_train"][:, None], file["y_train"]
    return SolarCells.of(run, images[labels == 0], images[labels == 6][:STRANGE], "shirts")


def of_count(run: FeatureRun, images: SolarCells, count: int, seed: int) -> dict[str, Any]:
    """Return the false alarms and the anomalies found by a model of ``count`` images in all."""
    order = np.random.default_rng((count, seed)).permutation(len(images.normal))
    good = images.normal[order[:count]]
    test = images.normal[order[count : count + run.some(TESTED, 40)]]
    strange = images.defective[: run.some(STRANGE, 20)]
    folds: NDArray[np.int8] = np.sort(np.arange(count) % FOLDS).astype(np.int8)
    model = fitted_model(run, images.table, good, (good, good), folds)
    found = model.evidence(strange)
    return {
        **model.measured(model.evidence(test), found),
        DEFAULT: float((model.calibration.p_values(found) <= model.calibration.default_alpha).mean()),
        "smallest alpha": model.calibration.smallest_p,
    }


def cross_bound(alpha: float, images: int) -> float:
    """Return the largest possible probability of a false alarm, as :mod:`snf_runtime.anomaly.calibration` states it."""
    return 2 * alpha + 2 * (1 - alpha) * (FOLDS - 1) / (images + FOLDS)


def report(document: dict[str, Any]) -> str:
    counts = []
    for name, count in by_count():
        if runs := document["counts"].get(name, {}).get(str(count), []):
            bounds = [cross_bound(alpha, count) for alpha in ALPHAS]
            smallest, of_bounds = f"{runs[0]['smallest alpha']:.4f}", " and ".join(f"{bound:.1%}" for bound in bounds)
            auroc = f"{np.mean([one['auroc'] for one in runs]):.3f}"
            counts.append((f"{count:,} {name}", len(runs), smallest, *spreads(runs), of_bounds, auroc))
    of_counts = ("images", "runs", "smallest alpha", *COLUMNS)
    lines = [
        "# False alarms of feature models",
        "",
        "Each run draws the good images anew, chooses grid and shrinkage, fits and calibrates in five folds, and tests "
        f"{TESTED} other good images and up to {STRANGE} others. Mean ± standard deviation over the runs (lowest - "
        "highest). A rate below the smallest alpha flags nothing. The default alpha is 1%, or the smallest where that "
        "is larger.",
        "",
        *table((*of_counts, "largest possible at 1% and 5%", "AUROC"), counts),
    ]
    return "\n".join(lines) + "\n"


def spreads(runs: list[dict[str, Any]]) -> list[str]:
    """Return the mean, the standard deviation and the range of each share over runs as text."""
    cells = []
    for column in COLUMNS:
        shares = [one[column] for one in runs]
        deviation = np.std(shares, ddof=1) if len(shares) > 1 else float("nan")
        cells.append(f"{np.mean(shares):.1%} ± {deviation:.1%} ({min(shares):.1%} - {max(shares):.1%})")
    return cells
