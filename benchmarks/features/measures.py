"""What is measured of an anomaly score: AUROC, anomalies that are found, and false alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from snf_models.evaluation.metrics import separation
from snf_runtime.anomaly.calibration import p_values

Array = NDArray[np.float64]
ALPHAS = (0.05, 0.01)
MEASURES = ("auroc", "found at 5%", "found at 1%", "false alarms at 5%", "false alarms at 1%")


def measured(normal: Array, strange: Array, p_normal: Array, p_strange: Array) -> dict[str, float]:
    """Return the measures of a score.

    Args:
        normal: The score of normal test images; larger = more anomalous.
        strange: The score of anomalous images.
        p_normal: P-values of the normal images.
        p_strange: P-values of the anomalous images.
    """
    found = {"auroc": separation(normal, strange).auroc}
    found |= {f"found at {alpha:.0%}": float((p_strange <= alpha).mean()) for alpha in ALPHAS}
    found |= {f"false alarms at {alpha:.0%}": float((p_normal <= alpha).mean()) for alpha in ALPHAS}
    return found


def measured_by_rank(calibration: Array, normal: Array, strange: Array) -> dict[str, float]:
    """Return the measures of a score whose p-values are ranks among the scores of calibration images."""
    reference = [np.sort(calibration)]
    return measured(normal, strange, p_values(reference, [normal]), p_values(reference, [strange]))


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean, smallest and largest value of every measure over several splits."""
    return {
        key: {
            "mean": float(np.mean([row[key] for row in rows])),
            "low": float(np.min([row[key] for row in rows])),
            "high": float(np.max([row[key] for row in rows])),
        }
        for key in rows[0]
    }


def cell(found: Mapping[str, float], *, share: bool) -> str:
    """Return the text of a table's cell: the mean, and the range in brackets."""
    if share:
        return f"{found['mean']:.1%} ({found['low']:.0%} - {found['high']:.0%})"
    return f"{found['mean']:.4f} ({found['low']:.3f} - {found['high']:.3f})"


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Return the lines of a Markdown table with a row for each score: mean (lowest - highest) over the splits."""
    lines = [f"| score | splits | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for name, splits in rows.items():
        found = summary(splits)
        cells = [cell(found[key], share=key != "auroc") for key in MEASURES]
        lines.append(f"| {name} | {len(splits)} | {' | '.join(cells)} |")
    return lines
