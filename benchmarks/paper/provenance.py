"""What the results were taken on, and how far exported models are from the trained ones."""

from __future__ import annotations

from pathlib import Path

from benchmarks.paper.rows import GROUPS
from benchmarks.paper.store import Record, read, runs


def machines(results: Path) -> list[str]:
    """Return the machines that the results were taken on, with the loads before them."""
    loads: dict[str, list[float]] = {}
    for record in every(results):
        machine = record["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if name == "torch")
        text = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {versions}"
        text += "" if record.get("device", "cpu") == "cpu" else f", {record['device']}"
        loads.setdefault(text, []).append(machine["load_before"])
    return [
        f"- {text}; load before the runs {min(found):.1f} to {max(found):.1f}" for text, found in sorted(loads.items())
    ] or ["Nothing measured yet."]


def every(results: Path) -> list[Record]:
    """Return all results that were measured on a machine."""
    others = [read(results, name) for name in ("figure2", "figure4", "table3")]
    return [one for one in [*runs(results, "*"), *others] if one is not None]


def exported(results: Path) -> list[str]:
    """Return how far exported models are from the trained ones in float64."""
    tested = [record for record in runs(results, "*") if record["test"] is not None]
    if not tested:
        return ["No test set has been scored yet."]
    lines = ["Log-likelihoods of exported models differ from those of the trained flows in float64 by at most:", ""]
    for name, chosen in (
        ("without coupling networks", [one for one in tested if GROUPS[one["group"]].family != "glow"]),
        ("with coupling networks, in float32", [one for one in tested if GROUPS[one["group"]].family == "glow"]),
    ):
        if chosen:
            worst = max(one["test"]["exported_difference"] / abs(one["test"]["nats"]) for one in chosen)
            lines.append(f"- {worst:.1e} of their mean for models {name} ({len(chosen)})")
    return lines
