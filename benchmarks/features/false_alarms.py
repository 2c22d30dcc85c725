"""False alarms of feature models and hybrids: resplits of held-out images, and few images in five folds."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.features.cells import SIZES, SolarCells, pixel_density
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import fitted_model
from benchmarks.features.ood import AGAINST, evidence_path, fitted_statistic, kinds_of, read_evidence
from models.anomaly.false_alarms import false_alarm_interval
from models.evaluation.metrics import separation
from models.registry.registry import ZOO
from models.scorer import Scorer
from snf_runtime.anomaly.conformal import p_values, smallest_p
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.pixel_density import PixelDensity

NAME = "false_alarms"
PARTS_OF_RUN = ("cells", "zoo", "folds")
ALPHAS = (0.01, 0.05)
FOLDS = 5
COUNTS = (60, 200)
TESTED = 400
STRANGE = 200
SIZES_OF_CELLS = (*SIZES[1:], 208)
"""Functional cells of each part in a resplit."""
ZOO_SIZES = (1000, 1000, 2000)
"""Images of the zoo's datasets that statistics are fitted to, that p-values are ranks among, and that are tested."""

_KEPT: list[Any] = []
"""Kind, evidence, names, grid and sizes of the resplits that this process computes."""


def measure(run: FeatureRun) -> None:
    """Measure the resplits and the folds that are asked for, and write after each."""
    document = {"resplits": {}, "folds": {}, **run.known(NAME)}
    cells = SolarCells.load(run)
    console = Console(stderr=True)
    if "cells" in run.extras["only"]:
        for kind in ("feature model", "hybrid") if run.extras["pixel_minutes"] else ("feature model",):
            evidence, names, grid = held_out_cells(run, cells, kind)
            document["resplits"][f"solar cells, {kind}"] = resplits(run, kind, evidence, names, grid, SIZES_OF_CELLS)
            run.write(NAME, document, report(document))
            console.print(document["resplits"])
    if "zoo" in run.extras["only"]:
        for name in AGAINST:
            if evidence_path(run, name).exists():
                scorer = Scorer.load(ZOO / name / "1", options=run.options)
                sets, _ = read_evidence(evidence_path(run, name))
                together = Evidence.join([sets[part] for part in ("statistics", "calibration", "test")])
                for kind in ("feature model", "hybrid"):
                    document["resplits"][f"{name}, {kind}"] = resplits(
                        run, kind, together, scorer.statistics, scorer.density.grid, ZOO_SIZES
                    )
                    run.write(NAME, document, report(document))
                    console.print(document["resplits"])
    if "folds" in run.extras["only"]:
        for count in COUNTS:
            runs = document["folds"].setdefault(str(count), [])
            for seed in range(len(runs), run.some(run.extras["repetitions"], 1)):
                runs.append(in_folds(run, cells, count, seed))
                run.write(NAME, document, report(document))
                console.print(count, runs[-1])
    print(report(document))


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
    """Return how often the share of false alarms leaves its interval over random resplits of normal images.

    Args:
        run: The settings.
        kind: "hybrid" or "feature model".
        evidence: The evidence of images that did not train the model.
        names: The names of its whole-image statistics.
        grid: Rows and columns of the cells of the density of pixels.
        sizes: Images that statistics are fitted to, that p-values are ranks among, and that are tested.
    """
    random = np.random.default_rng(0)
    used = kinds_of(evidence)[kind]
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


def keep(*settings: Any) -> None:
    """Keep what all resplits of a process share."""
    _KEPT[:] = settings


def p_of_resplit(order: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the p-values of the tested images of a resplit, whose images are the rows ``order``."""
    kind, used, names, grid, sizes = _KEPT
    statistics, calibration, test = (used[rows] for rows in np.split(order, np.cumsum(sizes)[:-1]))
    fitted = fitted_statistic(kind, statistics, names, grid)
    return p_values([np.sort(fitted(calibration))], [fitted(test)])


def in_folds(run: FeatureRun, cells: SolarCells, count: int, seed: int) -> dict[str, Any]:
    """Return the false alarms of a model of few cells in all, fitted anew without each of five folds."""
    order = np.random.default_rng((count, seed)).permutation(len(cells.normal))
    images = cells.normal[order[:count]]
    test = cells.normal[order[count : count + run.some(TESTED, 40)]]
    strange = cells.defective[np.random.default_rng(seed).permutation(len(cells.defective))[: run.some(STRANGE, 20)]]
    folds: NDArray[np.int8] = np.sort(np.arange(count) % FOLDS).astype(np.int8)
    model = fitted_model(run, cells.table, images, (images, images), folds)
    normal, found = (model.evidence(of) for of in (test, strange))
    p, p_found = (model.calibration.p_values(of) for of in (normal, found))
    values = [model.calibration.typical_statistics(of) for of in (normal, found)]
    return {
        "false alarms": {f"{alpha:.0%}": float((p <= alpha).mean()) for alpha in ALPHAS},
        "found": {f"{alpha:.0%}": float((p_found <= alpha).mean()) for alpha in ALPHAS},
        "auroc": separation(*values).auroc,
        "grid": model.choices[0].grid,
    }


def cross_bound(alpha: float, images: int) -> float:
    """Return the largest possible probability of a false alarm, as :mod:`snf_runtime.anomaly.conformal` states it."""
    return 2 * alpha + 2 * (1 - alpha) * (FOLDS - 1) / (images + FOLDS)


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# False alarms of feature models",
        "",
        "## Random resplits of images that trained no flow",
        "",
        "Statistics are fitted anew and p-values ranked anew in each run. Of exchangeable images 1 % of the runs leave "
        "the Beta-binomial 99 % interval.",
        "",
        "| images | statistics, calibration, test | alpha | 99 % interval | mean of all runs | runs outside |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in document["resplits"].items():
        sizes = ", ".join(f"{size:,}" for size in row["sizes"])
        for alpha, found in row["alphas"].items():
            low, high = found["interval"]
            lines.append(
                f"| {name} | {sizes} of {row['images']:,} | {alpha} | {low:.2%} - {high:.2%} | {found['mean']:.2%} "
                f"| {found['outside']:.1%} of {found['runs']:,} |"
            )
    lines += [
        "",
        "## Few images in all, the whole fit in five folds",
        "",
        "Each run draws the images anew, fits grid, shrinkage and flows to all of them and without each fold, and "
        f"tests on {TESTED} other cells.",
        "",
        "| images | alpha | runs | mean of all runs | standard error | highest run | bound | found | AUROC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for count, runs in document["folds"].items():
        for alpha in ALPHAS:
            key = f"{alpha:.0%}"
            shares = [one["false alarms"][key] for one in runs]
            if not shares or alpha < smallest_p(int(count)):
                continue
            error = float(np.std(shares, ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else float("nan")
            lines.append(
                f"| {count} | {key} | {len(runs)} | {np.mean(shares):.2%} | {error:.2%} | {max(shares):.2%} "
                f"| {cross_bound(alpha, int(count)):.1%} | {np.mean([one['found'][key] for one in runs]):.1%} "
                f"| {np.mean([one['auroc'] for one in runs]):.3f} |"
            )
    return "\n".join(lines) + "\n"
