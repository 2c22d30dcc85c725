"""The tables in Markdown, from stored results alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.paper.plateau import Plateau
from benchmarks.paper.recipes import RECIPES
from benchmarks.paper.rows import GROUPS, Group
from benchmarks.paper.step_times import GROUPS as TIMED
from benchmarks.paper.step_times import PAPER
from benchmarks.paper.store import Record, read, runs, seconds_a_step


class Missing(Exception):
    """Raised when results are not there; the text is the command that measures them."""


def likelihoods(results: Path, names: Sequence[str], command: str) -> list[str]:
    """Return Table 1 or 2: what every row reached, beside the paper's number, and whether it is a result.

    Args:
        results: Folder of the results.
        names: Names of the groups.
        command: The command that measures them.
    """
    lines = [
        "| row | seed | recipe | steps (epochs) | training | test images | reached | paper | result |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = [
        likelihood_line(GROUPS[name], record)
        for name in names
        for record in sorted(runs(results, name), key=lambda one: (one["recipe"], order(one), one["seed"]))
    ]
    if not found:
        raise Missing(command)
    return [*lines, *found]


def images() -> list[str]:
    """Return how many images every group is measured on."""
    lines = ["| group | rows | each point of the curves | test |", "|---|---|---|---|"]
    for group in GROUPS.values():
        rows = f"{len(group.rows)} on {group.dataset}"
        lines.append(f"| {group.name} | {rows} | {group.validation_images} | {group.test_images} |")
    return lines


def order(record: Record) -> int:
    """Return the place of a row in its group."""
    return [row.name for row in GROUPS[record["group"]].rows].index(record["row"])


def likelihood_line(group: Group, record: Record) -> str:
    """Return the line of one training."""
    row, curve = group.row(record["row"]), record["curve"]
    paper = row.published or ""
    if not curve:
        return f"| {row.title} | {record['seed']} | {record['recipe']} | 0 | | | | {paper} | not trained yet |"
    last = curve[-1]
    test, stand_in = record["test"], record["dataset"] == "stand-in"
    reached = "" if test is None else in_unit(group, record, test["nats"], test["error"])
    return (
        f"| {row.title} | {record['seed']} | {record['recipe']} | {progress_of(group, record)} "
        f"| {last['seconds'] / 60:.0f} min "
        f"| {'' if test is None else test['images']} | {'' if stand_in else reached} | {paper} "
        f"| {'started on a stand-in of the same shape; no number' if stand_in else verdict_of(record)} |"
    )


def progress_of(group: Group, record: Record) -> str:
    """Return the steps and epochs of a training, and those of the paper where it says them."""
    step = record["curve"][-1]["step"]
    epochs = step / record["steps_per_epoch"]
    of_paper = f" of {group.epochs}" if group.epochs is not None else ""
    return f"{step} ({epochs:.3g}{of_paper})"


def verdict_of(record: Record) -> str:
    """Return whether a training gives a result, or why it gives none."""
    if record["diverged"] is not None:
        return f"none: {record['diverged']}"
    done = record["curve"][-1]["step"]
    if done < record["planned_steps"]:
        return f"none yet: {done} of {record['planned_steps']} steps"
    plateau, warmup = plateau_from(record), record["config"]["warmup_steps"]
    if done < warmup:
        return f"none: {plateau}; it ended inside the warm-up of {warmup} steps"
    return str(plateau) if plateau.reached else f"none: {plateau}"


def plateau_from(record: Record) -> Plateau:
    """Return the plateau of a record."""
    stored = record["plateau"]
    return Plateau(stored["gain"], stored["error"], stored["most"], stored["points"], stored["best_step"])


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
    lines = [
        "| row | recipe | seed | steps | weights of steps | test above the exact row | of its value | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = []
    for name in names:
        group = GROUPS[name]
        for record in runs(results, name):
            gap = record["gap"]
            if gap is None or record["dataset"] == "stand-in":
                continue
            row, reference = group.row(record["row"]), group.row(gap["to"])
            nats = record["test"]["nats"] - gap["nats"]
            found.append(
                f"| {row.title} | {record['recipe']} | {record['seed']} | {record['curve'][-1]['step']} "
                f"| {' and '.join(map(str, gap['best_steps']))} | {gap_in_unit(group, record)} "
                f"| {100 * gap['nats'] / nats:+.2f} % "
                f"| {published_gap(row.published, reference.published, group.unit)} |"
            )
    return [*lines, *found] if found else ["No two rows of a group have been trained for equal steps yet."]


def published_gap(row: Any, reference: Any, unit: str) -> str:
    """Return the difference of two numbers of the paper."""
    if row is None or reference is None:
        return ""
    return f"{row.mean - reference.mean:{'+.1f' if unit == 'nats' else '+.2f'}} {unit}"


def code_curves(results: Path) -> list[str]:
    """Return validations after the first epochs beside those of the authors' code; see ``Row.code_curve``."""
    lines = ["| row | epoch | here | authors' code, seed 0 |", "|---|---|---|---|"]
    for name in ("dense", "convolutional"):
        group = GROUPS[name]
        for row in group.rows:
            for record in runs(results, name, "published", row.name)[:1]:
                at = {point["step"]: point["nats"] for point in record["curve"]}
                for epoch, nats in row.code_curve.items():
                    here = at.get(epoch * record["steps_per_epoch"])
                    if here is not None:
                        lines.append(f"| {row.title} | {epoch} | {here:.1f} | {nats:.1f} |")
    if len(lines) == 2:
        raise Missing("python -m benchmarks.paper table1")
    return lines


def gradients(results: Path, name: str, command: str) -> list[str]:
    """Return the table of a group beyond the paper: gap to exact gradients, angle, inverse error, time a step."""
    group = GROUPS[name]
    lines = [
        "| row | seed | steps | validation nats above exact | test nats above exact | mean degrees | inverse error "
        "| multipliers | ms a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = []
    for record in sorted(runs(results, name), key=lambda one: (one["seed"], order(one))):
        if not record["curve"]:
            continue
        found.append(gradient_line(group, record, runs(results, name, record["recipe"], group.reference)))
    if not found:
        raise Missing(command)
    return [*lines, *found]


def gradient_line(group: Group, record: Record, references: list[Record]) -> str:
    """Return the line of one training, compared with the exact one at the same step."""
    last, gap = record["curve"][-1], record["gap"]
    at = {point["step"]: point["nats"] for one in references if one["seed"] == record["seed"] for point in one["curve"]}
    own = record["row"] == group.reference
    above = "" if own or last["step"] not in at else f"{last['nats'] - at[last['step']]:+.2f}"
    tested = "" if gap is None else f"{gap['nats']:+.2f} ± {gap['error']:.2f}"
    weights = last["multipliers"]
    title = group.row(record["row"]).title
    if record["diverged"] is not None:
        title += f" (diverged: {record['diverged']})"
    return (
        f"| {title} | {record['seed']} | {last['step']} | {above} | {tested} | {mean_text(last['angles'], '.3f')} "
        f"| {mean_text(last['inverse_errors'], '.4f')} "
        f"| {f'{min(weights):.3g} to {max(weights):.3g}' if weights else ''} "
        f"| {1e3 * (seconds_a_step(record) or math.nan):.0f} |"
    )


def mean_text(values: Sequence[float], digits: str) -> str:
    """Return the mean as text; nothing where there are no values."""
    return format(sum(values) / len(values), digits) if values else ""


def times(results: Path) -> list[str]:
    """Return Table 3: paired ratios of steps and samples."""
    found = read(results, "table3")
    if found is None:
        raise Missing("python -m benchmarks.paper table3")
    lines = ["| group | ratio | here: median (least to greatest) | paper, on its GPU |", "|---|---|---|---|"]
    for group in TIMED:
        measured = found["groups"].get(group.name)
        if measured is None:
            continue
        for name, one in measured["step_ratios"].items():
            over, under = name.split(" / ")
            lines.append(f"| {group.name} | step: {name} | {spread(one)} | {paper_ratio(group.name, over, under)} |")
        paper = PAPER[group.name, "snf"].sample / PAPER[group.name, "exact"].sample
        one = measured["sample_ratios"]["learned / exact"]
        lines.append(f"| {group.name} | sample: learned / exact inverse | {spread(one)} | {paper:.2f} |")
    return lines


def paper_ratio(group: str, over: str, under: str) -> str:
    """Return the ratio of two times a batch of the paper; nothing where it does not have them."""
    pair = PAPER.get((group, over)), PAPER.get((group, under))
    return "" if pair[0] is None or pair[1] is None else f"{pair[0].batch / pair[1].batch:.2f}"


def spread(one: Record) -> str:
    """Return median, least and greatest of paired ratios."""
    return f"{one['median']:.2f} ({one['least']:.2f} to {one['greatest']:.2f})"


def milliseconds(results: Path) -> list[str]:
    """Return the times of Table 3 in milliseconds."""
    found = read(results, "table3")
    if found is None:
        raise Missing("python -m benchmarks.paper table3")
    lines = [
        "| group | row | ms a step of 100 images | paper | ms a sample, by inverse | paper |",
        "|---|---|---|---|---|---|",
    ]
    for group, measured in found["groups"].items():
        for row, took in measured["step_ms"].items():
            samples = {
                name.partition(", ")[2]: one
                for name, one in measured["sample_ms"].items()
                if name.partition(", ")[0] == row
            }
            paper = PAPER.get((group, row))
            lines.append(
                f"| {group} | {row} | {took:.1f} | {paper.batch if paper else ''} "
                f"| {', '.join(f'{how} {one:.1f}' for how, one in samples.items())} | {paper.sample if paper else ''} |"
            )
    return lines


def growth(results: Path) -> list[str]:
    """Return Figure 4 as a table."""
    found = read(results, "figure4")
    if found is None:
        raise Missing("python -m benchmarks.paper figure4")
    sizes = found["dimensions"]
    lines = [
        f"| layer | {' | '.join(f'D = {size}' for size in sizes)} | exponent of D | calls of linalg a step |",
        f"|---|{'---|' * len(sizes)}---|---|",
    ]
    for kind in ("dense", "convolutional"):
        measured = found[kind]
        for name, value in measured["exponents"].items():
            cells = [measured["sizes"][str(size)][name] for size in sizes]
            calls = sorted({len(cell["cubic_calls"]) for cell in cells})
            medians = [f"{cell['median_ms']:.1f} ms" for cell in cells]
            lines.append(f"| {kind}, {name} | {' | '.join(medians)} | {value:.2f} | {', '.join(map(str, calls))} |")
    return lines


def inverses(results: Path) -> list[str]:
    """Return the differences of Figure 2 as a table."""
    found = read(results, "figure2")
    if found is None:
        raise Missing("python -m benchmarks.paper figure2")
    lines = [
        "| model | samples | mean absolute difference, pixel values | largest | equal pixels |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {name} | {one['samples']} | {one['mean_absolute_difference']:.4f} | {one['largest_difference']:.2f} "
        f"| {100 * one['equal_pixels']:.2f} % |"
        for name, one in found["models"].items()
    ]


def final_angles(results: Path) -> list[str]:
    """Return the angles of Figure 3 at the end of the trainings and at their worst.

    Where inverses are refreshed, the last point may be right after that. Therefore the worst of the last quarter of the
    steps is given, too. The paper has the angles of its own rows by its own recipe.
    """
    lines = [
        "| row | recipe | seed | steps | mean degrees at the end | of each layer "
        "| largest mean of the last quarter | of the run | paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    of_paper = {"dense": "about 0.1", "convolutional": "below 1"}
    for recipe, group in product(RECIPES, of_paper):
        for record in runs(results, group, recipe):
            last = record["curve"][-1]["step"]
            measured = [point for point in record["curve"] if point["angles"]]
            if measured:
                means = [sum(point["angles"]) / len(point["angles"]) for point in measured]
                late = [mean for mean, point in zip(means, measured, strict=True) if 4 * point["step"] >= 3 * last]
                row = GROUPS[group].row(record["row"])
                layers = ", ".join(f"{degrees:.2f}" for degrees in measured[-1]["angles"])
                paper = of_paper[group] if row.name == "snf" and recipe == "published" else ""
                lines.append(
                    f"| {row.title} | {recipe} | {record['seed']} | {last} "
                    f"| {means[-1]:.3f} | {layers} | {max(late):.3f} | {max(means):.3f} | {paper} |"
                )
    if len(lines) == 2:
        raise Missing("python -m benchmarks.paper figure3")
    return lines
