"""False alarms of the drift martingale in streams of real anomaly statistics, many of which are equal.

    SNF_DATA_DIR=... python -m benchmarks.drift_ties [--streams 20000]

The statistics of a shipped model, and those of features of solar cells, are fitted to 65 images, as for a data set of
650. They are constant below their smallest value of these images, so that some of the other images have equal ones. A
stream is a random order of such images: the first are the calibration, and nothing in it drifts. The capital may reach
c in at most 1 of c streams.

``before`` ranks each image by its conformal p-value, among the gaps between the calibration images, as the product did
until then. It had no test at all where more than 1 % of the calibration images shared their statistic.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.elpv import cells
from benchmarks.needs import data_dir
from models.anomaly.conformal_martingale import ConformalMartingale, RankCounts
from models.anomaly.fitting.reference_pass import collect_evidence
from models.anomaly.fitting.statistic_densities import fit_statistic
from models.atomic_files import write_atomically
from models.datasets import Dataset, load_dataset
from models.datasets.dataset import digest_of
from models.registry.registry import ZOO
from models.scorer import Scorer
from models.training.config import TrainingConfig
from models.training.run import train
from snf_runtime.anomaly.conformal import CELLS, statistic_cells

Array = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results"
MODEL, FITTED = "fashion-snf-glow", 65
CAPITALS = (10, 100, 1000)
BEFORE_STREAMS = 2000
USUAL_SIZES = (1000, 2000)
"""Calibration images, and images of a stream."""
CELL_SIZES = (300, 600)
CELLS_OF_MODEL = (400, 65)
"""Solar cells that train a feature model, and that its statistics are fitted to."""


def statistics(folder: Path) -> dict[str, Array]:
    """Return the statistics of images to which nothing was fitted, by their kind."""
    scorer = Scorer.load(ZOO / MODEL / "1")
    evidence = collect_evidence(scorer.density, load_dataset("fashion-mnist", folder).test).evidence
    statistic = fit_statistic(evidence[:FITTED], scorer.statistics, scorer.density.grid)
    rest = evidence[np.arange(FITTED, len(evidence))]
    families = statistic.families(rest)
    pools = dict(zip(statistic.kinds, families.T, strict=True)) | {"whole and local": statistic(rest)}
    return {name: np.asarray(values) for name, values in pools.items()}


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


def gap_ranks(calibration: Array, stream: Array, generator: np.random.Generator) -> Array:
    """Return the ranks by Polya's urn in the gaps between calibration images, as the product had them until then."""
    gaps = len(calibration) - np.searchsorted(np.sort(calibration), stream)
    counts = np.ones(len(calibration) + 1)
    ranks = np.empty(len(stream))
    for image, gap in enumerate(gaps):
        ranks[image] = (counts[:gap].sum() + generator.random() * counts[gap]) / counts.sum()
        counts[gap] += 1
    return np.clip(ranks, 1e-15, 1 - 1e-15)


def highest(ranks: Array) -> float:
    """Return the highest capital that is bet on the ranks of a stream, as a logarithm."""
    return float(ConformalMartingale().bet(ranks).max())


def measure(pool: Array, calibration: int, length: int, streams: int) -> dict[str, Any]:
    """Return how many streams reach each capital, now and before, and how many had no test before."""
    reached = {kind: {str(limit): 0 for limit in CAPITALS} for kind in ("now", "before")}
    without = 0
    for seed in track(range(streams), f"{calibration} calibration images"):
        generator = np.random.default_rng(seed)
        drawn = pool[generator.permutation(len(pool))[: calibration + length]]
        images, stream = drawn[:calibration], drawn[calibration:]
        counts = RankCounts.of(np.bincount(statistic_cells(images), minlength=CELLS))
        found = {"now": highest(counts.add(statistic_cells(stream)))}
        without += len(np.unique(images)) < 0.99 * calibration
        if seed < BEFORE_STREAMS:
            found["before"] = highest(gap_ranks(images, stream, generator))
        for kind, capital in found.items():
            for limit in CAPITALS:
                reached[kind][str(limit)] += int(capital >= np.log(limit))
    _, sizes = np.unique(pool, return_counts=True)
    return {
        "calibration_images": calibration,
        "length": length,
        "images": len(pool),
        "equal": float(sizes[sizes > 1].sum() / len(pool)),
        "cells": int(1 / np.square(np.bincount(statistic_cells(pool)) / len(pool)).sum()),
        "streams": streams,
        "streams_before": min(streams, BEFORE_STREAMS),
        "without_test_before": without / streams,
        "reached": reached,
    }


def report(rows: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    limits = " | ".join(f"capital {limit:,}" for limit in CAPITALS)
    lines = [
        "# Drift tests of equal statistics",
        "",
        "By `python -m benchmarks.drift_ties`: shares of streams without drift that ever reach a capital c; 1 / c is "
        "allowed. In brackets before: images ranked by their p-values alone.",
        "",
        f"| statistics | of equal images | calibration images, images of a stream | streams (before) | {limits} | "
        "calibrations without a test before |",
        "|---" * (5 + len(CAPITALS)) + "|",
    ]
    for name, row in rows.items():
        now, before = row["reached"]["now"], row["reached"]["before"]
        shares = " | ".join(
            f"{now[limit] / row['streams']:.2%} ({before[limit] / row['streams_before']:.2%})"
            for limit in map(str, CAPITALS)
        )
        lines.append(
            f"| {name} | {row['equal']:.1%} | {row['calibration_images']:,}, {row['length']:,} "
            f"| {row['streams']:,} ({row['streams_before']:,}) | {shares} | {row['without_test_before']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate, print, and write ``results/drift_ties.json`` and ``results/drift_ties.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_ties", description=__doc__)
    parser.add_argument("--streams", type=int, default=20_000)
    parser.add_argument("--only", choices=("pixels", "features"), help="the other results stay as they are")
    arguments = parser.parse_args()
    folder, path = data_dir("fashion_mnist.npz", "elpv64.npz"), RESULTS / "drift_ties.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    pools: dict[str, tuple[Array, tuple[int, int]]] = {}
    if arguments.only != "features":
        pools |= {name: (values, USUAL_SIZES) for name, values in statistics(folder).items()}
    if arguments.only != "pixels":
        pools["features"] = (feature_statistics(folder / "elpv64.npz"), CELL_SIZES)
    for name, (values, sizes) in pools.items():
        rows[name] = measure(values, *sizes, arguments.streams)
        write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
        write_atomically(path.with_suffix(".md"), report(rows).encode())
    Console().print(report(rows), markup=False, highlight=False)


if __name__ == "__main__":
    main()
