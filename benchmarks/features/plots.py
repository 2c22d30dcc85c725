"""Pictures of the results: what is found at two false-alarm rates, and held-out likelihood against AUROC."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.features import choice, elpv
from benchmarks.features.common import FeatureRun
from benchmarks.features.measures import summary
from benchmarks.needs import extra

with extra("bench"):
    import matplotlib as mpl

    mpl.use("Agg")

    from matplotlib import pyplot as plt


def draw(run: FeatureRun) -> None:
    """Draw what there are results for."""
    if splits := run.known(elpv.NAME).get("splits"):
        found_at_alpha(run, splits)
    if splits := run.known(choice.NAME).get("splits"):
        nats_against_auroc(run, splits)


def found_at_alpha(run: FeatureRun, splits: dict[str, Any]) -> None:
    """Draw a bar for each score and false-alarm rate: the share of defective cells found, with the range of splits."""
    scores: dict[str, list[dict[str, float]]] = {}
    for row in splits.values():
        for work in elpv.SECTIONS["1,000 training cells"]:
            for name, found in row.get(work, {}).items():
                if isinstance(found, dict) and "auroc" in found:
                    scores.setdefault(name, []).append(found)
    names = sorted(scores, key=lambda name: summary(scores[name])["auroc"]["mean"])
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(names) + 1.2))
    for offset, (key, colour) in enumerate((("found at 1%", "#9ecae1"), ("found at 5%", "#3182bd"))):
        found = [summary(scores[name])[key] for name in names]
        means = np.array([one["mean"] for one in found])
        low, high = (np.abs(means - [one[end] for one in found]) for end in ("low", "high"))
        places = np.arange(len(names)) + 0.38 * (offset - 0.5)
        axes.barh(places, means, 0.36, xerr=[low, high], color=colour, ecolor="grey", label=key)
    labels = [f"{name}  (AUROC {summary(scores[name])['auroc']['mean']:.3f})" for name in names]
    axes.set_yticks(np.arange(len(names)), labels, fontsize=8)
    axes.set(xlim=(0, 1), xlabel="share of 715 defective solar cells, mean and range of the splits")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(run.results("elpv", "png"), dpi=150)


def nats_against_auroc(run: FeatureRun, splits: dict[str, Any]) -> None:
    """Draw held-out likelihood against AUROC of every grid and shrinkage, a panel for each number of training cells."""
    counts = sorted({key.partition("-")[2] for key in splits}, key=int, reverse=True)
    figure, panels = plt.subplots(1, len(counts), figsize=(5 * len(counts), 3.8), squeeze=False)
    for axes, count in zip(panels[0], counts, strict=True):
        row = splits[f"0-{count}"]
        grids = sorted({point["grid"] for point in row["points"]})
        for number, grid in enumerate(grids):
            points = [point for point in row["points"] if point["grid"] == grid]
            colour = plt.get_cmap("viridis")(number / max(1, len(grids) - 1))
            axes.plot(
                [point["held_out"] for point in points],
                [point["auroc"] for point in points],
                "o-",
                color=colour,
                markersize=3.5,
                linewidth=0.8,
                label=f"grid {grid}",
            )
        chosen = min(row["points"], key=lambda point: point["held_out"])
        axes.plot(chosen["held_out"], chosen["auroc"], "*", color="firebrick", markersize=12, label="chosen")
        nats = np.array([point["held_out"] for point in row["points"]])
        axes.set_xlim(nats.min() - 0.03, min(nats.max(), nats.min() + 1.0) + 0.03)
        axes.set(xlabel="held-out negative log-likelihood, nats a value (less is better)", ylabel="AUROC")
        axes.set_title(f"{int(count):,} training cells, seed 0", fontsize=10)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(run.results("choice", "png"), dpi=150)
