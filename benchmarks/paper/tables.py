"""The tables in Markdown, from stored results alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.common import table
from benchmarks.paper.plateau import Plateau
from benchmarks.paper.recipes import RECIPES
from benchmarks.paper.rows import GROUPS, Group
from benchmarks.paper.step_times import GROUPS as TIMED
from benchmarks.paper.step_times import PAPER
from benchmarks.paper.store import Record, read, runs


class Missing(Exception):
    """Raised when results are not there; the text is the command that measures them."""


def results_of(results: Path, name: str) -> Record:
    found = read(results, name)
    if found is None:
        raise Missing(f"python -m benchmarks.paper {name}")
    return found


def likelihoods(results: Path, names: Sequence[str], command: str) -> list[str]:
    """Return Table 1 or 2: what every row reached, beside the paper's number, and whether it is a result."""
    found = [
        likelihood_cells(GROUPS[name], record)
        for name in names
        for record in sorted(runs(results, name), key=lambda one: (one["recipe"], order(one), one["seed"]))
    ]
    if not found:
        raise Missing(f"python -m benchmarks.paper {command}")
    heads = ("row", "seed", "recipe", "steps (epochs)", "training", "test images", "reached", "paper", "result")
    return table(heads, found)


def order(record: Record) -> int:
    """Return the place of a row in its group."""
    return [row.name for row in GROUPS[record["group"]].rows].index(record["row"])


def likelihood_cells(group: Group, record: Record) -> list[Any]:
    row, curve, test = group.row(record["row"]), record["curve"], record["test"]
    first = [row.title, record["seed"], record["recipe"]]
    if not curve:
        return [*first, 0, "", "", "", row.published, "not trained yet"]
    reached = "" if test is None else in_unit(group, record, test["nats"], test["error"])
    images, minutes = None if test is None else test["images"], f"{curve[-1]['seconds'] / 60:.0f} min"
    return [*first, progress_of(group, record), minutes, images, reached, row.published, verdict_of(record)]


def progress_of(group: Group, record: Record) -> str:
    """Return the steps and epochs of a training, and those of the paper where it says them."""
    step = record["curve"][-1]["step"]
    of_paper = f" of {group.epochs}" if group.epochs is not None else ""
    return f"{step} ({step / record['steps_per_epoch']:.3g}{of_paper})"


def verdict_of(record: Record) -> str:
    """Return whether a training gives a result, or why it gives none."""
    if record["diverged"] is not None:
        return f"none: {record['diverged']}"
    done = record["curve"][-1]["step"]
    if done < record["planned_steps"]:
        return f"none yet: {done} of {record['planned_steps']} steps"
    stored = {name: value for name, value in record["plateau"].items() if name != "reached"}
    plateau, warmup = Plateau(**stored), record["config"]["warmup_steps"]
    if done < warmup:
        return f"none: {plateau}; it ended inside the warm-up of {warmup} steps"
    return str(plateau) if plateau.reached else f"none: {plateau}"


def in_unit(group: Group, record: Record, nats: float, error: float) -> str:
    """Return a likelihood in the unit of the paper, with its standard error over the images."""
    if group.unit == "nats":
        return f"{nats:.1f} ± {error:.1f}"
    scale = bits_of_nats(record)
    return f"{nats * scale:.3f} ± {error * scale:.3f}"


def gap_in_unit(group: Group, record: Record) -> str:
    """Return the difference from the reference row in the unit of the paper, with its standard error."""
    nats, error = record["gap"]["nats"], record["gap"]["error"]
    if group.unit == "nats":
        return f"{nats:+.2f} ± {error:.2f} nats"
    scale = bits_of_nats(record)
    return f"{nats * scale:+.4f} ± {error * scale:.4f} bits/dim"


def bits_of_nats(record: Record) -> float:
    """Return the bits per dimension that a nat is."""
    dimensions: int = record["dimensions"]
    return 1 / (dimensions * math.log(2))


def gaps(results: Path, names: Sequence[str]) -> list[str]:
    """Return the differences from the exact row at equal steps, on the same images with the same noise."""
    found = []
    for name in names:
        group = GROUPS[name]
        for record in (record for record in runs(results, name) if record["gap"] is not None):
            gap, row = record["gap"], group.row(record["row"])
            nats = record["test"]["nats"] - gap["nats"]
            found.append(
                (
                    row.title,
                    record["recipe"],
                    record["seed"],
                    record["curve"][-1]["step"],
                    " and ".join(map(str, gap["best_steps"])),
                    gap_in_unit(group, record),
                    f"{100 * gap['nats'] / nats:+.2f} %",
                    published_gap(row.published, group.row(gap["to"]).published, group.unit),
                )
            )
    heads = ("row", "recipe", "seed", "steps", "weights of steps", "test above the exact row", "of its value", "paper")
    return table(heads, found) if found else ["No two rows of a group have been trained for equal steps yet."]


def published_gap(row: Any, reference: Any, unit: str) -> str:
    """Return the difference of two numbers of the paper."""
    if row is None or reference is None:
        return ""
    return f"{row.mean - reference.mean:{'+.1f' if unit == 'nats' else '+.2f'}} {unit}"


def code_curves(results: Path) -> list[str]:
    """Return validations after the first epochs beside those of the authors' code; see ``Row.code_curve``."""
    found = []
    for group, row in ((name, row) for name in ("dense", "convolutional") for row in GROUPS[name].rows):
        for record in runs(results, group, "published", row.name)[:1]:
            at = {point["step"]: point["nats"] for point in record["curve"]}
            for epoch, nats in row.code_curve.items():
                here = at.get(epoch * record["steps_per_epoch"])
                if here is not None:
                    found.append((row.title, epoch, f"{here:.1f}", f"{nats:.1f}"))
    if not found:
        raise Missing("python -m benchmarks.paper table1")
    return table(("row", "epoch", "here", "authors' code, seed 0"), found)


def gradients(results: Path, name: str) -> list[str]:
    """Return the table of a group beyond the paper: gap to exact gradients, angle, inverse error, time a step."""
    group = GROUPS[name]
    found = [
        gradient_cells(group, record, runs(results, name, record["recipe"], group.reference))
        for record in sorted(runs(results, name), key=lambda one: (one["seed"], order(one)))
        if record["curve"]
    ]
    if not found:
        raise Missing(f"python -m benchmarks.paper {name}")
    heads = ("row", "seed", "steps", "validation nats above exact", "test nats above exact", "mean degrees")
    return table((*heads, "inverse error", "multipliers", "ms a step"), found)


def gradient_cells(group: Group, record: Record, references: list[Record]) -> list[Any]:
    """Return the cells of one training, compared with the exact one at the same step."""
    last, gap, weights = record["curve"][-1], record["gap"], record["curve"][-1]["multipliers"]
    at = {point["step"]: point["nats"] for one in references if one["seed"] == record["seed"] for point in one["curve"]}
    own = record["row"] == group.reference
    title = group.row(record["row"]).title
    return [
        title if record["diverged"] is None else f"{title} (diverged: {record['diverged']})",
        record["seed"],
        last["step"],
        "" if own or last["step"] not in at else f"{last['nats'] - at[last['step']]:+.2f}",
        "" if gap is None else f"{gap['nats']:+.2f} ± {gap['error']:.2f}",
        mean_text(last["angles"], ".3f"),
        mean_text(last["inverse_errors"], ".4f"),
        f"{min(weights):.3g} to {max(weights):.3g}" if weights else "",
        f"{1e3 * last['seconds'] / last['step']:.0f}",
    ]


def mean_text(values: Sequence[float], digits: str) -> str:
    return format(sum(values) / len(values), digits) if values else ""


def times(results: Path) -> list[str]:
    """Return Table 3: paired ratios of steps and samples."""
    groups, found = results_of(results, "table3")["groups"], []
    for group in (group for group in TIMED if group.name in groups):
        measured = groups[group.name]
        for name, one in measured["step_ratios"].items():
            over, under = name.split(" / ")
            found.append((group.name, f"step: {name}", spread(one), paper_ratio(group.name, over, under)))
        paper = PAPER[group.name, "snf"].sample / PAPER[group.name, "exact"].sample
        one = measured["sample_ratios"]["learned / exact"]
        found.append((group.name, "sample: learned / exact inverse", spread(one), f"{paper:.2f}"))
    return table(("group", "ratio", "here: median (least to greatest)", "paper, on its GPU"), found)


def paper_ratio(group: str, over: str, under: str) -> str:
    """Return the ratio of two times a batch of the paper; nothing where it does not have them."""
    pair = PAPER.get((group, over)), PAPER.get((group, under))
    return "" if pair[0] is None or pair[1] is None else f"{pair[0].batch / pair[1].batch:.2f}"


def spread(one: Record) -> str:
    return f"{one['median']:.2f} ({one['least']:.2f} to {one['greatest']:.2f})"


def milliseconds(results: Path) -> list[str]:
    """Return the times of Table 3 in milliseconds."""
    found: list[Sequence[Any]] = []
    for group, measured in results_of(results, "table3")["groups"].items():
        for row, took in measured["step_ms"].items():
            samples = [
                f"{how} {one:.1f}"
                for of_row, _, how, one in ((*name.partition(", "), one) for name, one in measured["sample_ms"].items())
                if of_row == row
            ]
            paper = PAPER.get((group, row), (None, None))
            found.append((group, row, f"{took:.1f}", paper[0], ", ".join(samples), paper[1]))
    return table(("group", "row", "ms a step of 100 images", "paper", "ms a sample, by inverse", "paper"), found)


def growth(results: Path) -> list[str]:
    """Return Figure 4 as a table."""
    found = results_of(results, "figure4")
    sizes = found["dimensions"]
    rows = [
        (
            f"{kind}, {name}",
            *(f"{found[kind]['sizes'][str(size)][name]['median_ms']:.1f} ms" for size in sizes),
            f"{value:.2f}",
        )
        for kind in ("dense", "convolutional")
        for name, value in found[kind]["exponents"].items()
    ]
    return table(("layer", *(f"D = {size}" for size in sizes), "exponent of D"), rows)


def final_angles(results: Path) -> list[str]:
    """Return the angles of Figure 3 at the end of the trainings and at their worst.

    Where inverses are refreshed, the last point may be right after that. Therefore the worst of the last quarter of the
    steps is given, too. The paper has the angles of its own rows by its own recipe.
    """
    found = []
    of_paper = {"dense": "about 0.1", "convolutional": "below 1"}
    for recipe, group in product(RECIPES, of_paper):
        for record in runs(results, group, recipe):
            measured = [point for point in record["curve"] if point["angles"]]
            if measured:
                last, row = record["curve"][-1]["step"], GROUPS[group].row(record["row"])
                means = [sum(point["angles"]) / len(point["angles"]) for point in measured]
                late = [mean for mean, point in zip(means, measured, strict=True) if 4 * point["step"] >= 3 * last]
                layers = ", ".join(f"{degrees:.2f}" for degrees in measured[-1]["angles"])
                degrees = (f"{means[-1]:.3f}", layers, f"{max(late):.3f}", f"{max(means):.3f}")
                paper = of_paper[group] if row.name == "snf" and recipe == "published" else ""
                found.append((row.title, recipe, record["seed"], last, *degrees, paper))
    if not found:
        raise Missing("python -m benchmarks.paper figure3")
    heads = ("row", "recipe", "seed", "steps", "mean degrees at the end", "of each layer")
    return table((*heads, "largest mean of the last quarter", "of the run", "paper"), found)


def machines(results: Path) -> list[str]:
    """Return the machines that the results were taken on, with the loads before them."""
    loads: dict[str, list[float]] = {}
    others = [read(results, name) for name in ("figure4", "table3")]
    for record in (one for one in [*runs(results, "*"), *others] if one is not None):
        on = record["machine"]
        text = f"{on['cpu']}, {on['cores']} cores, {on['threads']} threads, torch {on['versions']['torch']}"
        text += "" if record.get("device", "cpu") == "cpu" else f", {record['device']}"
        loads.setdefault(text, []).append(on["load_before"])
    return [
        f"- {text}; load before the runs {min(found):.1f} to {max(found):.1f}" for text, found in sorted(loads.items())
    ] or ["Nothing measured yet."]
