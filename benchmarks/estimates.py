"""Time and memory of training runs: what ``models.training.cost.estimate`` expects against what is measured.

``python -m benchmarks.estimates [--threads 2] [--repeats 2] [--presets NAME ...] [--sides 28 32] [--add] [--fit]``

Every preset trains a few steps in a process of its own on real digits, grey at 28x28 and three to an image at 32x32,
through evaluation to the artifact. Of each part the least time over steps and repeats counts, so that what else the
machine does meanwhile weighs as little as it can; memory is the largest peak of the process's resident size. What is
expected is for slowness 1: two threads of the machine that the constants were fitted on. ``--fit`` prints constants
fitted to what was measured here.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from benchmarks.step_time import machine
from models.atomic_files import write_atomically
from models.datasets import Dataset, DatasetSummary, load_dataset
from models.training.config import TrainingConfig
from models.training.cost.estimate import estimate_training
from models.training.cost.plan import Plan
from models.training.cost.time import PARTS, SECONDS, seconds_of
from models.training.presets import PRESETS, find_preset
from models.training.run import train

RESULTS = Path(__file__).parent / "results"
SHAPES = {28: (1, 28, 28), 32: (3, 32, 32)}
SPLITS = (2000, 100, 40, 60)
STEPS = 10
STEPS_OF_SLOW_ONES = 3
NAMES = (
    "snf-glow-tiny",
    "snf-glow-small",
    "exact-glow-small",
    "snf-glow-medium",
    "snf-fc-2l",
    "exact-fc-2l",
    "snf-conv-9l",
    "exact-conv-9l",
    "emerging-conv-9l",
    "exponential-conv-9l",
    "snf-glow-2l-16k",
)


def configured(preset: str) -> TrainingConfig:
    """Return what is trained: a few steps, one validation."""
    slow = find_preset(preset).width > 256 or preset == "exact-conv-9l"
    steps = STEPS_OF_SLOW_ONES if slow else STEPS
    return find_preset(preset).config({"max_steps": steps, "validations": 1, "validation_images": SPLITS[1]})


def digits(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return real digits ``(N, C, H, W)``, padded to ``shape``; the channels of an image are different digits."""
    channels, height, _ = shape
    dataset = load_dataset("mnist-mini", None)
    images = np.concatenate([dataset.train, dataset.statistics, dataset.calibration, dataset.test])[:, 0]
    images = np.pad(images, ((0, 0), *[((height - 28) // 2,) * 2] * 2))
    chosen = np.arange(sum(SPLITS) * channels) % len(images)
    return np.ascontiguousarray(images[chosen].reshape(sum(SPLITS), *shape))


def train_one(preset: str, side: int, threads: int, launched: float) -> dict[str, float]:
    """Train in this process; return the seconds of each part and the peak of resident memory in bytes."""
    parts = np.split(digits(SHAPES[side]), np.cumsum(SPLITS)[:-1])
    times: list[tuple[str, float]] = [("launched", launched)]

    def stepped() -> bool:
        times.append(("stepped", time.monotonic()))
        return False

    with tempfile.TemporaryDirectory() as folder:
        train(
            Dataset("digits", *parts, digest="digits"),
            preset,
            configured(preset),
            Path(folder),
            observe=lambda event: times.append((event["event"], time.monotonic())),
            should_stop=stepped,
            threads=threads,
        )
    times.append(("done", time.monotonic()))
    return {**durations(times), "memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def durations(times: list[tuple[str, float]]) -> dict[str, float]:
    """Return the seconds of each part from the order of events; of a step, the quickest that reported nothing."""
    first = dict(reversed(times))
    steps: list[float] = []
    reports: list[float] = []
    last, reported = first["started"], False
    for name, moment in times:
        if name == "metrics":
            reported = True
        elif name == "stepped":
            (reports if reported else steps).append(moment - last)
            last, reported = moment, False
    # Of steps so slow that each one is reported, the quickest stands for itself.
    step = min(steps or reports)
    return {
        "start": first["started"] - first["launched"],
        "step": step,
        "report": max(0.0, reports[-1] - step),
        "validation": first["validation"] - last,
        "checkpoint": first["checkpoint"] - first["validation"],
        "preview": first.get("samples", first["checkpoint"]) - first["checkpoint"],
        "evaluation": first["done"] - max(moment for name, moment in times if name == "log"),
        "total": first["done"] - first["launched"],
    }


def measure(preset: str, side: int, threads: int, repeats: int) -> dict[str, float]:
    """Train ``repeats`` times in fresh processes; return the least of every time and the largest memory."""
    found: list[dict[str, float]] = []
    command = [sys.executable, "-m", "benchmarks.estimates", "--child", preset, str(side), str(threads)]
    for _ in range(repeats):
        answer = subprocess.run([*command, repr(time.monotonic())], capture_output=True, text=True, check=True)
        found.append(json.loads(answer.stdout.splitlines()[-1]))
    return least(found)


def least(found: list[dict[str, float]]) -> dict[str, float]:
    """Return the least of every time and the largest memory."""
    times = {name: min(one[name] for one in found) for name in found[0]}
    return {**times, "memory_bytes": max(one["memory_bytes"] for one in found)}


def expect(preset: str, side: int) -> dict[str, float]:
    """Return what the estimate says of the same run."""
    plan = planned(preset, side)
    estimate = estimate_training(plan.architecture, SHAPES[side], plan.config, plan.splits)
    parts = {name: seconds_of(part(plan)) for name, part in PARTS.items()}
    return {**parts, "total": estimate.seconds, "memory_bytes": estimate.memory_bytes}


def compared(preset: str, side: int, measured: dict[str, float]) -> dict[str, Any]:
    """Return a run with what is expected of it, and how many times what was measured that is."""
    expected = expect(preset, side)
    ratio = {part: expected[part] / measured[part] if measured[part] else None for part in expected}
    return {"preset": preset, "side": side, "measured": measured, "expected": expected, "ratio": ratio}


def planned(preset: str, side: int) -> Plan:
    """Return the run that is measured, as it is estimated."""
    config = configured(preset)
    architecture = find_preset(preset).architecture(SHAPES[side], config.pixel_transform)
    return Plan(architecture, config, DatasetSummary(SHAPES[side], *SPLITS))


def fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds a unit of work, none negative, by least squares of expected/measured - 1.

    A run is mostly steps, so they weigh threefold.
    """
    works, times, weights = [], [], []
    for row in rows:
        for name, part in PARTS.items():
            # What takes next to no time is not measured by its share of it.
            if row["measured"][name] > 1e-3:
                works.append(part(planned(row["preset"], row["side"])))
                times.append(row["measured"][name])
                weights.append(3.0 if name == "step" else 1.0)
    units = sorted(set().union(*works))
    weight = np.array(weights)
    matrix = np.array([[work[unit] for unit in units] for work in works]) * (weight / np.array(times))[:, None]
    scale = matrix.max(0)
    found = nnls(matrix / scale, weight)[0] / scale
    return {unit: float(f"{value:.2g}") for unit, value in zip(units, found, strict=True)}


def table(rows: list[dict[str, Any]]) -> Table:
    """Return expected/measured of every run and part."""
    parts = ("start", "step", "validation", "evaluation", "total", "memory_bytes")
    found = Table(title="expected / measured; time at slowness 1")
    for column in ("preset", "side", "step s", "peak MB", *(part.replace("_bytes", "") for part in parts)):
        found.add_column(column, justify="left" if column == "preset" else "right")
    for row in rows:
        measured, ratio = row["measured"], row["ratio"]
        found.add_row(
            row["preset"],
            str(row["side"]),
            f"{measured['step']:.3f}",
            f"{measured['memory_bytes'] / 1e6:.0f}",
            *(f"{ratio[part]:.2f}" for part in parts),
        )
    return found


def main() -> None:
    """Measure, compare, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=NAMES, choices=sorted(PRESETS))
    parser.add_argument("--sides", type=int, nargs="+", default=sorted(SHAPES), choices=sorted(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="add to the runs of the result file, of each the least")
    parser.add_argument("--fit", action="store_true", help="print constants fitted to this machine")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of estimates_THREADS.json")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        preset, side, threads, launched = arguments.child
        print(json.dumps(train_one(preset, int(side), int(threads), float(launched))))
        return
    path = arguments.out / f"estimates_{arguments.threads}.json"
    runs: dict[tuple[str, int], dict[str, float]] = {}
    if arguments.add:
        runs = {(row["preset"], row["side"]): row["measured"] for row in json.loads(path.read_text())["runs"]}
    document: dict[str, Any] = {"machine": {**machine(), "threads": arguments.threads}, "seconds_a_unit": SECONDS}
    for preset, side in product(arguments.presets, arguments.sides):
        measured = measure(preset, side, arguments.threads, arguments.repeats)
        runs[preset, side] = least([measured, runs.get((preset, side), measured)])
        print(f"{preset} at {side}: {measured['total']:.1f} s", file=sys.stderr, flush=True)
        # Written after every run: a long measurement that is interrupted is not lost.
        rows = [compared(*key, found) for key, found in runs.items()]
        slowness = statistics.median(row["measured"]["step"] / row["expected"]["step"] for row in rows)
        write_atomically(path, (json.dumps({**document, "slowness": slowness, "runs": rows}, indent=1) + "\n").encode())
    Console(width=120).print(table(rows))
    print(f"{arguments.threads} thread(s): in the median, a step takes {slowness:.2f} times what is expected")
    if arguments.fit:
        print(json.dumps(fit(rows), indent=4))


if __name__ == "__main__":
    main()
