"""The figures as PNG files, from stored results alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.needs import extra
from benchmarks.paper.recipes import RECIPES
from benchmarks.paper.rows import GROUPS
from benchmarks.paper.store import Record, read, runs

with extra("bench"):
    import matplotlib as mpl

    mpl.use("Agg")

    from matplotlib import pyplot as plt

DPI = 130


def draw(results: Path, name: str) -> bool:
    """Draw a figure or the curves of a group; return whether there is anything to draw."""
    figure = {"figure3": angles, "figure4": growth, "figure5": curves}.get(name, of_group)(results, name)
    if figure is None:
        return False
    figure.tight_layout()
    # Without the time of writing, so that equal results give equal files.
    figure.savefig(results / f"{name}.png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return True


def angles(results: Path, _name: str) -> Any:
    """Draw Figure 3, one panel for each recipe: the mean angle over the layers by epoch, with its standard deviation.

    Refreshed inverses are drawn as points without a line: their angle depends on the steps since the last refresh.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    colours: dict[str, str] = {}
    for axis, recipe in zip(axes, RECIPES, strict=True):
        for record in [*runs(results, "dense", recipe), *runs(results, "convolutional", recipe)]:
            points = [point for point in record["curve"] if point["angles"]]
            if not points or record["seed"] != 0:
                continue
            title = GROUPS[record["group"]].row(record["row"]).title
            colour = colours.setdefault(title, f"C{len(colours)}")
            epochs = np.array([point["step"] / record["steps_per_epoch"] for point in points])
            means = np.array([np.mean(point["angles"]) for point in points])
            spread = np.array([np.std(point["angles"]) for point in points])
            if record["config"]["refresh_inverse_every"]:
                axis.plot(epochs, means, color=colour, label=title, linestyle="", marker=".")
            else:
                axis.plot(epochs, means, color=colour, label=title)
                axis.fill_between(epochs, np.maximum(means - spread, 1e-4), means + spread, color=colour, alpha=0.2)
        axis.axhline(1, color="grey", linestyle=":", label="1 degree")
        axis.set(yscale="log", ylim=(1e-3, 180), xlabel="epoch", title=f"{recipe}, seed 0")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    axes[0].set_ylabel("degrees to the exact gradient")
    return figure if colours else None


def growth(results: Path, name: str) -> Any:
    found = read(results, name)
    if found is None:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, kind in zip(axes, ("dense", "convolutional"), strict=True):
        for layer, value in found[kind]["exponents"].items():
            times = [found[kind]["sizes"][str(size)][layer]["median_ms"] for size in found["dimensions"]]
            style = {"linestyle": "--", "color": "grey"} if layer == "products alone" else {"marker": "o"}
            axis.plot(found["dimensions"], times, label=f"{layer}: D^{value:.2f}", **style)
        axis.set(xscale="log", yscale="log", xlabel="dimensions D", ylabel="ms a step, batch 100", title=kind)
        axis.legend(fontsize=8)
    return figure


def curves(results: Path, _name: str) -> Any:
    groups = ("dense", "convolutional")
    figure, axes = plt.subplots(len(groups) * len(RECIPES), 2, figsize=(10, 13), squeeze=False)
    drawn = False
    for line, (group, recipe) in enumerate((group, recipe) for group in groups for recipe in RECIPES):
        found = runs(results, group, recipe)
        drawn = curve_pair(axes[line], found, group, f"{group}, {recipe}") or drawn
    return figure if drawn else None


def curve_pair(axes: Any, found: Sequence[Record], group: str, title: str) -> bool:
    """Draw the curves of some trainings against minutes and against epochs; return whether there are any."""
    columns: tuple[tuple[str, Callable[[Record, Record], float]], ...] = (
        ("minutes of training", lambda _record, point: point["seconds"] / 60),
        ("epochs", lambda record, point: point["step"] / record["steps_per_epoch"]),
    )
    rows = [row.name for row in GROUPS[group].rows]
    for axis, (label, place) in zip(axes, columns, strict=True):
        for record in found:
            if record["curve"]:
                x = [place(record, point) for point in record["curve"]]
                y = [point["nats"] for point in record["curve"]]
                colour = plt.get_cmap("tab10")(rows.index(record["row"]))
                text = record["row"] if record["seed"] == 0 else None
                axis.plot(x, y, color=colour, label=text, linewidth=1.2)
        axis.set(xlabel=label, ylabel="validation, nats", title=title, yscale="log")
        if axis.lines:
            axis.legend(fontsize=8)
    return any(record["curve"] for record in found)


def of_group(results: Path, name: str) -> Any:
    """Draw the learning curves of a group, one line of pictures a recipe."""
    recipes = sorted({record["recipe"] for record in runs(results, name)})
    if not recipes:
        return None
    figure, axes = plt.subplots(len(recipes), 2, figsize=(10, 3.6 * len(recipes)), squeeze=False)
    drawn = [
        curve_pair(axes[line], runs(results, name, recipe), name, f"{name}, {recipe}")
        for line, recipe in enumerate(recipes)
    ]
    return figure if any(drawn) else None
