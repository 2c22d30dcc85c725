"""Time and memory of training runs: what ``models.training.cost.estimate`` expects against what is measured.

``python -m benchmarks.estimates [--threads 2] [--repeats 2] [--presets NAME ...] [--sides 28 32] [--add] [--quick]``

Every preset trains a few steps in a process of its own on real digits, grey at 28x28 and three to an image at 32x32,
through evaluation to the artifact. The least time over repeats counts, so that what else the machine does meanwhile
weighs as little as it can; memory is the largest peak of the process's resident size. What is expected follows from the
throughput of this machine, measured just before; ``--quick`` assumes the reference machine instead.
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

from benchmarks.speed.machine import describe
from models.atomic_files import write_atomically
from models.datasets import Dataset, DatasetSummary, load_dataset
from models.training.config import TrainingConfig
from models.training.cost.estimate import estimate_training
from models.training.cost.throughput import ASSUMED, Throughput, stored_throughput
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
PARTS = ("start", "training", "evaluation", "total", "memory_bytes")


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
    times: dict[str, float] = {}

    def observe(event: dict[str, Any]) -> None:
        # The training is over where it is said that evaluation begins.
        times.setdefault("started" if event["event"] == "started" else event.get("message", ""), time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset("digits", *parts, digest="digits")
        train(
            dataset,
            preset,
            configured(preset),
            Path(folder),
            observe=observe,
            should_stop=lambda: False,
            threads=threads,
        )
    done = time.monotonic()
    trained = next(moment for message, moment in times.items() if "evaluates" in message)
    return {
        "start": times["started"] - launched,
        "training": trained - times["started"],
        "evaluation": done - trained,
        "total": done - launched,
        "memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def measure(preset: str, side: int, threads: int, repeats: int) -> dict[str, float]:
    """Train ``repeats`` times in fresh processes; return the least of every time and the largest memory."""
    command = [sys.executable, "-m", "benchmarks.estimates", "--child", preset, str(side), str(threads)]
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        answer = subprocess.run([*command, repr(time.monotonic())], capture_output=True, text=True, check=True)
        runs.append(json.loads(answer.stdout.splitlines()[-1]))
    return least(runs)


def least(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the least of every time and the largest memory."""
    times = {name: min(run[name] for run in runs) for name in runs[0]}
    return {**times, "memory_bytes": max(run["memory_bytes"] for run in runs)}


def compared(preset: str, side: int, measured: dict[str, float], throughput: Throughput) -> dict[str, Any]:
    """Return a run with what is expected of it, and how many times what was measured that is."""
    config = configured(preset)
    architecture = find_preset(preset).architecture(SHAPES[side], config.pixel_transform)
    estimate = estimate_training(architecture, config, DatasetSummary(SHAPES[side], *SPLITS), throughput)
    seconds = (estimate.start_seconds, estimate.training_seconds, estimate.evaluation_seconds, estimate.seconds)
    expected = dict(zip(PARTS, (*seconds, estimate.memory_bytes), strict=True))
    ratio = {part: expected[part] / measured[part] for part in PARTS}
    return {"preset": preset, "side": side, "measured": measured, "expected": expected, "ratio": ratio}


def measured_throughput(threads: int) -> Throughput:
    """Return the throughput of this machine, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "throughput.json"
        command = [sys.executable, "-m", "models.training.cost.measure", str(path), "--threads", str(threads)]
        subprocess.run([*command, "--launched", repr(time.monotonic())], check=True)
        throughput = stored_throughput(path)
    assert throughput is not None
    return throughput


def table(rows: list[dict[str, Any]]) -> Table:
    """Return expected/measured of every run and part."""
    rendered = Table(title="expected / measured")
    for column in ("preset", "side", "total s", "peak MB", *(part.replace("_bytes", "") for part in PARTS)):
        rendered.add_column(column, justify="left" if column == "preset" else "right")
    for row in rows:
        measured, ratio = row["measured"], row["ratio"]
        figures = (f"{measured['total']:.1f}", f"{measured['memory_bytes'] / 1e6:.0f}")
        rendered.add_row(row["preset"], str(row["side"]), *figures, *(f"{ratio[part]:.2f}" for part in PARTS))
    return rendered


def main() -> None:
    """Measure, compare, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--presets", nargs="+", default=NAMES, choices=sorted(PRESETS))
    parser.add_argument("--sides", type=int, nargs="+", default=sorted(SHAPES), choices=sorted(SHAPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="add to the runs of the result file, of each the least")
    parser.add_argument("--quick", action="store_true", help="assume the throughput of the reference machine")
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
    throughput = ASSUMED if arguments.quick else measured_throughput(arguments.threads)
    document = {"machine": describe(arguments.threads), "throughput": throughput.model_dump()}
    for preset, side in product(arguments.presets, arguments.sides):
        measured = measure(preset, side, arguments.threads, arguments.repeats)
        runs[preset, side] = least([measured, runs.get((preset, side), measured)])
        print(f"{preset} at {side}: {measured['total']:.1f} s", file=sys.stderr, flush=True)
        # Written after every run: a long measurement that is interrupted is not lost.
        rows = [compared(*key, run, throughput) for key, run in runs.items()]
        median = statistics.median(row["ratio"]["total"] for row in rows)
        write_atomically(path, (json.dumps({**document, "median": median, "runs": rows}, indent=1) + "\n").encode())
    Console(width=120).print(table(rows))
    print(f"{arguments.threads} thread(s): in the median, {median:.2f} of the measured time is expected")


if __name__ == "__main__":
    main()
