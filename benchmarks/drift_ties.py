"""False alarms of the drift martingale in streams of real anomaly statistics, many of which are equal.

    SNF_DATA_DIR=... python -m benchmarks.drift_ties [--streams 20000]

The statistics of a shipped model, and those of features of solar cells, are fitted to 65 images, as for a data set of
650. They are constant below their smallest value of these images, so that some of the other images have equal ones. A
stream is a random order of such images: the first are the calibration, and nothing in it drifts. The capital may reach
c in at most 1 of c streams.
``five folds`` is a calibration of 100 images in five folds: each stream has a fit to 80 images of its own, and is
ranked among the other 20.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.elpv import cells
from benchmarks.needs import data_dir
from snf_models.anomaly.calibrate import collect_evidence
from snf_models.anomaly.exchangeability import ConformalMartingale, RankCounts
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.datasets import Dataset, load_dataset
from snf_models.datasets.dataset import digest_of
from snf_models.disk import write_atomically
from snf_models.pipeline.run import train
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer
from snf_models.training.config import TrainingConfig
from snf_runtime.anomaly.conformal import CELLS, statistic_cells
from snf_runtime.scoring.evidence import Evidence

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Array]

RESULTS = Path(__file__).parent / "results"
MODEL, FITTED = "fashion-snf-glow", 65
CAPITALS = (10, 100, 1000)
USUAL_SIZES = (1000, 2000)
"""Calibration images, and images of a stream."""
CELL_SIZES = (300, 600)
FOLD_SIZES, FITTED_FOLDS, FOLD_STREAMS = (20, 1000), 80, 1000
CELLS_OF_MODEL = (400, 65)
"""Solar cells that train a feature model, and that its statistics are fitted to."""


def statistics(scorer: Scorer, evidence: Evidence) -> dict[str, Array]:
    """Return the statistics of images to which nothing was fitted, by their kind."""
    statistic = fit_statistic(evidence[:FITTED], scorer.statistics, scorer.density.grid)
    rest = evidence[np.arange(FITTED, len(evidence))]
    families = statistic.families(rest)
    pools = dict(zip(statistic.kinds, families.T, strict=True)) | {"whole and local": statistic(rest)}
    return {name: np.asarray(values) for name, values in pools.items()}


def of_first_fold(scorer: Scorer, evidence: Evidence, generator: np.random.Generator) -> Array:
    """Return the statistics of random images by a fit to others."""
    order = generator.permutation(len(evidence))[: FITTED_FOLDS + sum(FOLD_SIZES)]
    statistic = fit_statistic(evidence[order[:FITTED_FOLDS]], scorer.statistics, scorer.density.grid)
    return np.asarray(statistic(evidence[order[FITTED_FOLDS:]]))


def shuffled(values: Array, generator: np.random.Generator) -> Array:
    """Return the values in random order."""
    return values[generator.permutation(len(values))]


def feature_statistics(path: Path) -> Array:
    """Return the statistics of solar cells by a feature model that was trained, and fitted, without them."""
    normal, _ = cells(path)
    parts = np.split(normal[np.random.default_rng(0).permutation(len(normal))], np.cumsum((*CELLS_OF_MODEL, 1)))
    dataset = Dataset("cells", *parts, digest_of(*parts))
    with tempfile.TemporaryDirectory() as folder:
        artifact = train(
            dataset, "snf-features", TrainingConfig(), Path(folder), observe=_ignore, should_stop=lambda: False
        )
        scorer = Scorer.load(artifact)
        return scorer.calibration.folds[0].statistic(collect_evidence(scorer.density, dataset.test).evidence)


def _ignore(_event: object) -> None:
    """Take no notice of progress."""


def measure(draw: Draw, sizes: tuple[int, int], streams: int) -> dict[str, Any]:
    """Return how many streams reach each capital; ``draw`` returns statistics of images in random order."""
    calibration, length = sizes
    reached = {str(limit): 0 for limit in CAPITALS}
    for seed in track(range(streams), f"{calibration} calibration images"):
        cells = statistic_cells(draw(np.random.default_rng(seed))[: calibration + length])
        ranks = RankCounts.of(np.bincount(cells[:calibration], minlength=CELLS)).add(cells[calibration:])
        highest = ConformalMartingale().bet(ranks).max()
        for limit in CAPITALS:
            reached[str(limit)] += int(highest >= np.log(limit))
    pool = draw(np.random.default_rng(0))
    _, same = np.unique(pool, return_counts=True)
    return {
        "calibration_images": calibration,
        "length": length,
        "images": len(pool),
        "equal": float(same[same > 1].sum() / len(pool)),
        "cells": int(1 / np.square(np.bincount(statistic_cells(pool)) / len(pool)).sum()),
        "streams": streams,
        "reached": reached,
    }


def report(rows: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    limits = " | ".join(f"capital {limit:,}" for limit in CAPITALS)
    lines = [
        "# Drift test of equal statistics",
        "",
        "By `python -m benchmarks.drift_ties`: shares of streams without drift that ever reach a capital c; 1 / c is "
        "allowed.",
        "",
        f"| statistics | of equal images | calibration images, images of a stream | streams | {limits} |",
        "|---" * (4 + len(CAPITALS)) + "|",
    ]
    for name, row in rows.items():
        shares = " | ".join(f"{reached / row['streams']:.2%}" for reached in row["reached"].values())
        lines.append(
            f"| {name} | {row['equal']:.1%} | {row['calibration_images']:,}, {row['length']:,} | {row['streams']:,} "
            f"| {shares} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, print, and write ``results/drift_ties.json`` and ``results/drift_ties.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_ties", description=__doc__)
    parser.add_argument("--streams", type=int, default=20_000)
    parser.add_argument("--only", choices=("pixels", "folds", "features"), help="the other results stay as they are")
    arguments = parser.parse_args()
    folder, path = data_dir("fashion_mnist.npz", "elpv64.npz"), RESULTS / "drift_ties.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    draws: dict[str, tuple[Draw, tuple[int, int], int]] = {}
    if arguments.only != "features":
        scorer = Scorer.load(ZOO / MODEL / "1")
        evidence = collect_evidence(scorer.density, load_dataset("fashion-mnist", folder).test).evidence
        pools = {} if arguments.only == "folds" else statistics(scorer, evidence)
        draws |= {name: (partial(shuffled, values), USUAL_SIZES, arguments.streams) for name, values in pools.items()}
        draws["five folds"] = partial(of_first_fold, scorer, evidence), FOLD_SIZES, FOLD_STREAMS
    if arguments.only not in ("pixels", "folds"):
        draws["features"] = partial(shuffled, feature_statistics(folder / "elpv64.npz")), CELL_SIZES, arguments.streams
    for name, of in draws.items():
        rows[name] = measure(*of)
        write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
        write_atomically(path.with_suffix(".md"), report(rows).encode())
    Console().print(report(rows), markup=False, highlight=False)


if __name__ == "__main__":
    main()
