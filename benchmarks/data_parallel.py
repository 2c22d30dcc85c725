"""Training in two processes against training in one: do they train the same, and how much faster are two.

``python -m benchmarks.data_parallel [--steps 200] [--preset snf-glow-small] [--rounds 3] [--timed-steps 40]``

The curves are of snf-glow-tiny on mnist-mini in float32, bits/dim of every step. What two processes add up in another
order differs by rounding, which training amplifies: as a measure of that, one process trains on the same batches with
their images in reverse order. The times are of steps alone, as processes x threads, in turns; medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models.training.loop
from benchmarks.step_time import RESULTS, machine
from models.datasets import load_dataset
from models.training.data import Batches
from models.training.distributed import Ranks, joined
from models.training.loop import Interrupted, Trainer
from models.training.presets import find_preset

CURVE_PRESET = "snf-glow-tiny"
UNTIMED = 5
"""Steps before the clock starts: the first ones allocate."""
TIMED = ((1, 1), (1, 2), (2, 1))
"""Processes and threads of each."""


@dataclass(frozen=True)
class Run:
    """What one set of processes trains; ``every_step``: reports of every step, which take time."""

    preset: str
    steps: int
    processes: int = 1
    threads: int = 1
    learning_rate: float = 2e-3
    every_step: bool = False
    reverse: bool = False


def work(run: Run, rank: int, folder: Path) -> dict[str, Any]:
    """Take the steps of one process; return bits/dim as reported, and seconds a step."""
    torch.set_num_threads(run.threads)
    if run.every_step:
        models.training.loop.REPORT_SECONDS = 0
    if run.reverse:
        forward = Batches.batch
        Batches.batch = lambda self, step: forward(self, step).flip(0)  # type: ignore[method-assign]
    parameters = {
        "max_steps": run.steps + 1,  # stopped one step before the end, which would validate
        "learning_rate": run.learning_rate,
        "precision": "float32",
        "validations": 1,
    }
    config = find_preset(run.preset).config(parameters)
    dataset = load_dataset("mnist-mini", None, config=config)
    architecture = find_preset(run.preset).architecture(dataset.image_shape, config.pixel_transform)
    events: list[dict[str, Any]] = []
    times: list[float] = []
    meeting = f"file://{folder}/rendezvous"
    with nullcontext(Ranks.single()) if run.processes == 1 else joined(rank, run.processes, meeting) as ranks:
        trainer = Trainer(dataset, architecture, config, folder, events.append, ranks=ranks)

        def should_stop() -> bool:
            times.append(time.perf_counter())
            # Several stop a step after the wish.
            return trainer.state.step == run.steps - (run.processes > 1)

        with suppress(Interrupted):
            trainer.take_steps(should_stop)
    return {
        "bits_per_dim": [event["bits_per_dim"] for event in events if event["event"] == "metrics"],
        "seconds": (times[-1] - times[UNTIMED]) / (len(times) - 1 - UNTIMED),
    }


def train(run: Run) -> dict[str, Any]:
    """Train in processes of their own; return what the first one found."""
    with tempfile.TemporaryDirectory() as folder:
        told = json.dumps(vars(run))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.data_parallel", "--work", told, str(rank), folder],
                stdout=subprocess.PIPE,
            )
            for rank in range(run.processes)
        ]
        said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{run} failed")
    found: dict[str, Any] = json.loads(said[0])
    return found


def curve(**changes: Any) -> Tensor:
    """Return bits/dim of every step."""
    return torch.tensor(train(Run(CURVE_PRESET, every_step=True, **changes))["bits_per_dim"], dtype=torch.float64)


def differences(steps: int, learning_rate: float) -> dict[str, float]:
    """Return the largest difference in bits/dim from one process, of two processes and of the images in reverse."""
    one = curve(steps=steps, learning_rate=learning_rate)
    two = curve(steps=steps, learning_rate=learning_rate, processes=2)
    reverse = curve(steps=steps, learning_rate=learning_rate, reverse=True)
    return {"two processes": float((two - one).abs().max()), "reverse order": float((reverse - one).abs().max())}


def main() -> None:
    """Compare, time, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_parallel", description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[2e-3, 5e-4])
    parser.add_argument("--preset", default="snf-glow-small", help="what is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed-steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of data_parallel.json")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        told, rank, folder = arguments.work
        print(json.dumps(work(Run(**json.loads(told)), int(rank), Path(folder))))
        return
    summary: dict[str, Any] = {"machine": machine(), "steps": arguments.steps, "differences": {}}
    for rate in arguments.learning_rates:
        found = summary["differences"][f"{rate:g}"] = differences(arguments.steps, rate)
        words = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
        print(f"{arguments.steps} steps, learning rate {rate:g}, largest difference in bits/dim: {words}", flush=True)
    seconds: dict[str, list[float]] = {f"{processes}x{threads}": [] for processes, threads in TIMED}
    for _ in range(arguments.rounds):
        for processes, threads in TIMED:
            run = Run(arguments.preset, arguments.timed_steps, processes, threads)
            seconds[f"{processes}x{threads}"].append(train(run)["seconds"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        spread = f"{1e3 * min(seconds[name]):.1f} to {1e3 * max(seconds[name]):.1f}"
        print(f"{arguments.preset}, {name} thread(s): {1e3 * value:.1f} ms a step ({spread})")
    ratios = {name: medians[name] / medians["2x1"] for name in ("1x1", "1x2")}
    print(f"2x1 is {ratios['1x2']:.2f} times as fast as 1x2, {ratios['1x1']:.2f} times as fast as 1x1")
    summary |= {"preset": arguments.preset, "seconds_a_step": seconds, "speed_of_2x1_over": ratios}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "data_parallel.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
