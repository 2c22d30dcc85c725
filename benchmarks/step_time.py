"""Time of one training step of a dense layer over its dimensions: self normalizing against exact.

``python -m benchmarks.step_time [--dimensions 512 1024 2048 4096] [--rounds 5]``

Forward and backward, no optimiser, one layer on normal noise of batch 100 in float32 (Keller et al. 2021, 5.2). The
layers take turns within a round, so that a change of the machine's speed meets both; medians over the rounds. The
exponent is the slope of log time over log D by least squares. Calls of factorisations, inverses and determinants are
counted by name, in forward and backward alike.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.paper.growth import CubicCalls
from benchmarks.speed.machine import describe
from benchmarks.speed.pairing import exponent
from models.bijections.dense import ExactDense, SelfNormalizingDense
from models.flows.flow import standard_normal_log_prob

RESULTS = Path(__file__).parent / "results"
LAYERS: dict[str, type[ExactDense]] = {"self-normalizing": SelfNormalizingDense, "exact": ExactDense}


def step(layer: ExactDense, x: Tensor) -> None:
    """Take the gradients of one training step, with the reconstruction penalty where there is one, lambda = 1."""
    layer.zero_grad()
    z, log_det = layer(x)
    loss = -(standard_normal_log_prob(z) + log_det).mean()
    if isinstance(layer, SelfNormalizingDense):
        loss = loss + layer.pop_reconstruction_error().mean()
    torch.autograd.backward(loss)


def measure(dimensions: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds a step and the cubic calls of one step, by layer."""
    layers = {name: kind(dimensions).train() for name, kind in LAYERS.items()}
    x = torch.randn(batch_size, dimensions, 1, 1).requires_grad_()
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    calls = {}
    for name, layer in layers.items():
        # The first step, which allocates, is not timed: it is counted.
        with CubicCalls() as counted:
            step(layer, x)
        calls[name] = counted.found
    for _ in range(rounds):
        for name, layer in layers.items():
            started = time.perf_counter()
            step(layer, x)
            seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            "median_ms": 1e3 * statistics.median(seconds[name]),
            "min_ms": 1e3 * min(seconds[name]),
            "max_ms": 1e3 * max(seconds[name]),
            "cubic_calls": calls[name],
        }
        for name in layers
    }


def main() -> None:
    """Measure, fit, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of step_time.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    described = describe(arguments.threads)
    print(f"{described['cpu']}, {described['threads']} thread(s), torch {described['versions']['torch']}")
    measured = {}
    for dimensions in arguments.dimensions:
        # Small layers take little time and need more rounds for as steady a median.
        rounds = arguments.rounds * max(1, math.ceil(2048 / dimensions))
        found = measured[dimensions] = measure(dimensions, arguments.batch_size, rounds)
        times = ", ".join(f"{name} {entry['median_ms']:.1f} ms" for name, entry in found.items())
        print(f"D = {dimensions}: {times}; {rounds} rounds", flush=True)
    exponents = {
        name: exponent(arguments.dimensions, [measured[d][name]["median_ms"] for d in arguments.dimensions])
        for name in LAYERS
    }
    summary = {
        "machine": described,
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "exponents": exponents,
        "measured": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "step_time.json").write_text(json.dumps(summary, indent=1) + "\n")
    for name, value in exponents.items():
        calls = {len(measured[d][name]["cubic_calls"]) for d in arguments.dimensions}
        print(f"{name}: time grows as D^{value:.2f}, cubic calls a step: {', '.join(map(str, sorted(calls)))}")


if __name__ == "__main__":
    main()
