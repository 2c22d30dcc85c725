"""False alarms of feature models and hybrids over resplits, and what is found by the number of good images."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.common import table
from benchmarks.features.cells import SIZES, SolarCells, pixel_density
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import MEASURES, fitted_model
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_runtime.anomaly.calibration import p_values
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import HybridDensity
from snf_runtime.scoring.pixel_density import PixelDensity

NAME = "false_alarms"
PARTS_OF_RUN = ("cells", "counts", "suspects")
ALPHAS = (0.01, 0.05)
FOLDS = 5
WAY = "five folds"
COUNTS = {"solar cells": (60, 200, 400, 650, 1000), "T-shirts against shirts": (400, 650, 1000, 2000)}
"""Good images of a model. There are 1,508 functional solar cells, some of which are tested."""
SUSPECTS, DIRT, SHARE = 200, (0.0, 0.05), (0.0, 0.05)
"""Solar cells of a model, the shares of them that are defective, and the values of ``suspect_share``."""
DEFAULT = "found at the default alpha"
COLUMNS = (DEFAULT, *MEASURES[2:0:-1], *MEASURES[4:2:-1])
TESTED = 400
STRANGE = 715
SIZES_OF_CELLS = (*SIZES[1:], 208)
"""Functional cells of each part in a resplit."""

_KEPT: list[Any] = []
"""Kind, evidence, names, grid and sizes of the resplits that this process computes."""


def measure(run: FeatureRun) -> None:
    """Measure the resplits and the folds that are asked for, and write after each."""
    document = {"resplits": {}, "counts": {}, **run.known(NAME)}
    cells = SolarCells.load(run)
    console = Console(stderr=True)
    if "cells" in run.extras["only"]:
        for kind in ("feature model", "hybrid") if run.extras["pixel_minutes"] else ("feature model",):
            evidence, names, grid = held_out_cells(run, cells, kind)
            document["resplits"][f"solar cells, {kind}"] = resplits(run, kind, evidence, names, grid, SIZES_OF_CELLS)
            run.write(NAME, document, report(document))
            console.print(document["resplits"])
    if "counts" in run.extras["only"]:
        sets = {"solar cells": cells, "T-shirts against shirts": shirts(run)}
        for name, count in by_count():
            runs = document["counts"].setdefault(name, {}).setdefault(str(count), {}).setdefault(WAY, [])
            for seed in range(len(runs), run.some(run.extras["repetitions"], 1)):
                runs.append(of_count(run, sets[name], count, seed))
                run.write(NAME, document, report(document))
                console.print(name, count, runs[-1])
    if "suspects" in run.extras["only"]:
        for dirt, share in product(DIRT, SHARE):
            runs = document.setdefault("suspects", {}).setdefault(f"{dirt:.0%} dirty, suspect_share {share:g}", [])
            for seed in range(len(runs), run.some(run.extras["repetitions"], 1)):
                runs.append(of_count(run, cells, SUSPECTS, seed, dirt, share))
                run.write(NAME, document, report(document))
    print(report(document))


def by_count() -> list[tuple[str, int]]:
    return [(name, count) for name, counts in COUNTS.items() for count in counts]


def shirts(run: FeatureRun) -> SolarCells:
    """Return the images of Fashion-MNIST's class 0 as good ones and of class 6 as defective ones."""
    with np.load(run.data_dir / "fashion_mnist.npz", allow_pickle=False) as file:
        images, labels = file["x_train"][:, None], file["y_train"]
    return SolarCells.of(run, images[labels == 0], images[labels == 6][:STRANGE], "shirts")


def held_out_cells(
    run: FeatureRun, cells: SolarCells, kind: str
) -> tuple[Evidence, tuple[str, ...], tuple[int, int] | None]:
    """Return the evidence of all cells that did not train on seed 0, with the names and the grid of its statistics."""
    split = cells.split(0)
    pixels: PixelDensity | None = None
    if kind == "hybrid":
        pixels = pixel_density(run, split, run.extras["pixel_minutes"])
    model = fitted_model(run, cells.table, split.train, (split.statistics, split.calibration), pixels=pixels)
    held_out = np.concatenate([split.statistics, split.calibration, split.test])
    grid = model.density.grid if isinstance(model.density, HybridDensity) else None
    return model.evidence(held_out), model.density.statistics, grid


def resplits(
    run: FeatureRun,
    kind: str,
    evidence: Evidence,
    names: tuple[str, ...],
    grid: tuple[int, int] | None,
    sizes: tuple[int, int, int],
) -> dict[str, Any]:
    """Return how often the share of false alarms leaves its interval over random resplits of normal images."""
    random = np.random.default_rng(0)
    used = features_alone(evidence) if kind == "feature model" else evidence
    sizes = tuple(min(size, len(used) // 3) for size in sizes)  # type: ignore[assignment]
    orders = [
        random.permutation(len(used))[: sum(sizes)].astype(np.int32) for _ in range(run.some(run.extras["resplits"], 3))
    ]
    # One process a thread: the fit of a mixture of 1,000 images gains nothing from a second thread.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(run.threads, get_context("spawn"), keep, (kind, used, names, grid, sizes)) as pool:
        p = np.array(list(track(pool.map(p_of_resplit, orders), f"resplits, {kind}", len(orders))))
    shares = {alpha: (p <= alpha).mean(1).tolist() for alpha in ALPHAS}
    found = {}
    for alpha in ALPHAS:
        low, high = false_alarm_interval(sizes[1], sizes[2], alpha)
        outside = [not low <= share <= high for share in shares[alpha]]
        found[f"{alpha:.0%}"] = {
            "interval": [low, high],
            "mean": float(np.mean(shares[alpha])),
            "outside": float(np.mean(outside)),
            "runs": len(outside),
        }
    return {"sizes": list(sizes), "images": len(used), "alphas": found}


def features_alone(evidence: Evidence) -> Evidence:
    nothing = np.zeros((len(evidence), 0))
    return Evidence(nothing, nothing, features=evidence.features)


def keep(*settings: Any) -> None:
    _KEPT[:] = settings


def p_of_resplit(order: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the p-values of the tested images of a resplit, whose images are the rows ``order``."""
    kind, used, names, grid, sizes = _KEPT
    statistics, calibration, test = (used[rows] for rows in np.split(order, np.cumsum(sizes)[:-1]))
    fitted = fit_statistic(statistics, *((names, grid) if kind == "hybrid" else ((), None)))
    return p_values([np.sort(fitted(calibration))], [fitted(test)])


def of_count(
    run: FeatureRun, images: SolarCells, count: int, seed: int, dirt: float = 0.0, suspect_share: float = 0.0
) -> dict[str, Any]:
    """Return the false alarms and the anomalies found by a model of ``count`` images in all, a share of them dirty."""
    order = np.random.default_rng((count, seed)).permutation(len(images.normal))
    good = images.normal[order[:count]]
    test = images.normal[order[count : count + run.some(TESTED, 40)]]
    if dirt:
        random, dirty = np.random.default_rng(seed), round(dirt * count)
        good = np.concatenate([images.defective[random.permutation(STRANGE)[:dirty]], good[dirty:]])
        good = good[random.permutation(count)]
    strange = images.defective[: run.some(STRANGE, 20)]
    folds: NDArray[np.int8] = np.sort(np.arange(count) % FOLDS).astype(np.int8)
    model = fitted_model(run, images.table, good, (good, good), folds, suspect_share=suspect_share)
    found = model.evidence(strange)
    return {
        **model.measured(model.evidence(test), found),
        DEFAULT: float((model.calibration.p_values(found) <= model.calibration.default_alpha).mean()),
        "smallest alpha": model.calibration.smallest_p,
        "grid": model.choices[0].grid,
    }


def cross_bound(alpha: float, images: int) -> float:
    """Return the largest possible probability of a false alarm, as :mod:`snf_runtime.anomaly.calibration` states it."""
    return 2 * alpha + 2 * (1 - alpha) * (FOLDS - 1) / (images + FOLDS)


def report(document: dict[str, Any]) -> str:
    resplit = [
        (
            name,
            f"{', '.join(f'{size:,}' for size in row['sizes'])} of {row['images']:,}",
            alpha,
            " - ".join(f"{end:.2%}" for end in found["interval"]),
            f"{found['mean']:.2%}",
            f"{found['outside']:.1%} of {found['runs']:,}",
        )
        for name, row in document["resplits"].items()
        for alpha, found in row["alphas"].items()
    ]
    counts = []
    for name, count in by_count():
        if runs := document["counts"].get(name, {}).get(str(count), {}).get(WAY, []):
            bounds = [cross_bound(alpha, count) for alpha in ALPHAS]
            smallest, of_bounds = f"{runs[0]['smallest alpha']:.4f}", " and ".join(f"{bound:.1%}" for bound in bounds)
            auroc = f"{np.mean([one['auroc'] for one in runs]):.3f}"
            counts.append((f"{count:,} {name}", len(runs), smallest, *spreads(runs), of_bounds, auroc))
    suspects = [
        (name, len(runs), *spreads(runs), f"{np.mean([one['auroc'] for one in runs]):.3f}")
        for name, runs in document.get("suspects", {}).items()
    ]
    of_resplits = (
        "images",
        "statistics, calibration, test",
        "alpha",
        "99 % interval",
        "mean of all runs",
        "runs outside",
    )
    of_counts = ("images", "runs", "smallest alpha", *COLUMNS)
    lines = [
        "# False alarms of feature models",
        "",
        "## Random resplits of images that trained no flow",
        "",
        "Statistics are fitted anew and p-values ranked anew in each run. Of exchangeable images 1 % of the runs leave "
        "the Beta-binomial 99 % interval.",
        "",
        *table(of_resplits, resplit),
        "",
        "## By the number of good images",
        "",
        "Each run draws the good images anew, chooses grid and shrinkage, fits and calibrates in five folds, and tests "
        f"{TESTED} other good images and up to {STRANGE} others. Mean ± standard deviation over the runs (lowest - "
        "highest). A rate below the smallest alpha flags nothing. The default alpha is 1%, or the smallest where that "
        "is larger.",
        "",
        *table((*of_counts, "largest possible at 1% and 5%", "AUROC"), counts),
        "",
        "## Suspects",
        "",
        f"Models of {SUSPECTS} solar cells in five folds, a share of which is defective. Suspects are left out of the "
        "fit and keep their ranks.",
        "",
        *table(("cells", "runs", *COLUMNS, "AUROC"), suspects),
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
