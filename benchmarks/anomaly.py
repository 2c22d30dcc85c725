"""How often the shipped models flag images of their own and of another data set.

    SNF_DATA_DIR=... python -m benchmarks.anomaly [--images 10000] [--alpha 0.01]

For each shipped model: the share of flagged images of its own test set, with the 99 % interval that its calibration
allows, and of the other set; the AUROC of the two-sided p-value and of the raw log-likelihood.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import betabinom, rankdata

from models.datasets import load_dataset
from models.registry import Registry
from models.scoring.scorer import Scorer

MODELS = {"mnist-snf-glow": "mnist", "fashion-snf-glow": "fashion-mnist"}
RESULT = Path(__file__).parent / "results" / "anomaly.json"
BATCH = 250


def false_alarm_interval(calibration: int, tests: int, alpha: float, level: float = 0.99) -> tuple[float, float]:
    """Return the interval that the share of flagged exchangeable images lies in with probability ``level``.

    Given n calibration images, the conformal test at ``alpha`` flags each image with probability Beta(k, n + 1 - k),
    k the number of ranks that it flags; the count in ``tests`` images is Beta-binomial (Bates et al. 2023).
    """
    ranks = 2 * int(alpha * (calibration + 1) / 2)
    low, high = betabinom(tests, ranks, calibration + 1 - ranks).interval(level)
    return float(low) / tests, float(high) / tests


def auroc(normal: NDArray[np.float64], strange: NDArray[np.float64]) -> float:
    """Return the probability that a strange image has the larger statistic than a normal one, ties counting half."""
    ranks = rankdata(np.concatenate([strange, normal]))
    wins = ranks[: len(strange)].sum() - len(strange) * (len(strange) + 1) / 2
    return float(wins / (len(strange) * len(normal)))


def log_likelihoods(scorer: Scorer, images: NDArray[np.uint8], label: str) -> NDArray[np.float64]:
    """Score ``images``, with a progress bar."""
    starts = track(range(0, len(images), BATCH), label, console=Console(stderr=True))
    batches = [scorer.score(images[start : start + BATCH]) for start in starts]
    return np.array([one.log_likelihood for batch in batches for one in batch])


def measure(name: str, own: str, other: str, images: int, alpha: float, data_dir: Path) -> dict[str, Any]:
    """Return the row of one model."""
    scorer = Scorer.load(Registry(Path("var/registry")).resolve(f"{name}:1").path)
    log_p = {
        d: log_likelihoods(scorer, load_dataset(d, data_dir).test[:images], f"{name} on {d}") for d in (own, other)
    }
    p_values = {d: np.array([scorer.calibration.p_value(value) for value in values]) for d, values in log_p.items()}
    calibration = len(scorer.calibration.calibration)
    low, high = false_alarm_interval(calibration, len(log_p[own]), alpha)
    flagged = {d: float((values <= alpha).mean()) for d, values in p_values.items()}
    return {
        "model": name,
        "alpha": alpha,
        "images": {d: len(values) for d, values in log_p.items()},
        "mean_log_likelihood": {d: float(values.mean()) for d, values in log_p.items()},
        "flagged_own": flagged[own],
        "interval_99": [low, high],
        "inside": low <= flagged[own] <= high,
        "flagged_other": flagged[other],
        "auroc_two_sided": auroc(-p_values[own], -p_values[other]),
        "auroc_low_likelihood": auroc(-log_p[own], -log_p[other]),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anomaly")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--alpha", type=float, default=0.01)
    arguments = parser.parse_args()
    if "SNF_DATA_DIR" not in os.environ:
        parser.error("SNF_DATA_DIR must name a folder with mnist.npz and fashion_mnist.npz")
    data_dir = Path(os.environ["SNF_DATA_DIR"])
    rows = [
        measure(name, own, other, arguments.images, arguments.alpha, data_dir)
        for (name, own), other in zip(MODELS.items(), reversed(MODELS.values()), strict=True)
    ]
    table = Table(title=f"share flagged at alpha = {arguments.alpha:g}")
    for column in ("model", "own test set", "99 % interval", "other set", "AUROC two-sided", "AUROC -log p"):
        table.add_column(column)
    for row in rows:
        low, high = row["interval_99"]
        table.add_row(
            row["model"],
            f"{row['flagged_own']:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{row['flagged_other']:.2%}",
            f"{row['auroc_two_sided']:.4f}",
            f"{row['auroc_low_likelihood']:.4f}",
        )
    Console().print(table)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
