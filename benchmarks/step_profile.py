"""The share of each part of a flow in the time of a training step: ``python -m benchmarks.step_profile``.

PyTorch's profiler measures whole steps of trainings on random images of 1x28x28, batch 100, after one that does not
count. The time of a backward operation belongs to the part whose forward operation it is of. In a self-normalizing
layer the second product of each pass, by R, belongs to the reconstruction penalty. Writes
``results/step_profile.{json,md}``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.machine import describe
from benchmarks.speed.train import steps_of, training
from snf_models.bijections import convolution, matrices
from snf_models.bijections.activations import SplineActivation
from snf_models.bijections.base import Bijection
from snf_models.bijections.channels import Squeeze
from snf_models.bijections.coupling import AffineCoupling, CouplingNet
from snf_models.disk import write_atomically
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.pipeline import loop
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import find_preset
from snf_models.training.batches import Batches

RESULTS = Path(__file__).parent / "results"
"""The table of the page, between its marks."""
SHAPE = (1, 28, 28)
CASES = (
    ("snf-glow-2l-16k", "float32"),
    ("snf-glow-2l-16k", "bfloat16"),
    ("snf-fc-2l", "float32"),
    ("snf-conv-9l", "float32"),
)
"""Presets with the number format of their coupling networks."""

DATA, PIXELS, NETS, COUPLINGS = "data", "pixel transform", "coupling networks", "couplings around their networks"
LINEAR, PENALTY, SPLINES, OTHERS = "linear layers", "reconstruction penalty", "splines", "other layers"
OPTIMIZER, AVERAGE, REST = "optimiser", "moving average of the weights", "everything else"
PARTS = (DATA, PIXELS, NETS, COUPLINGS, LINEAR, PENALTY, SPLINES, OTHERS, OPTIMIZER, AVERAGE, REST)
WITH_BACKWARD = (NETS, LINEAR, PENALTY, SPLINES)
"""Parts whose forward and backward pass have rows of their own."""
BACKWARD = "autograd::engine::evaluate_function: "
Shares = dict[tuple[str, bool], float]
"""Share of the time of a step by part, and by whether it is its backward pass."""


def part_of(module: nn.Module) -> str | None:
    """Return the part of a flow that a module is; None where it is inside another or only holds others."""
    if isinstance(module, CouplingNet):
        return NETS
    if isinstance(module, AffineCoupling):
        return COUPLINGS
    if isinstance(module, SplineActivation):
        return SPLINES
    if isinstance(module, Squeeze) or not isinstance(module, Bijection):
        return None
    return LINEAR if hasattr(module, "weight") else OTHERS


def labelled(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    """Return the function such that the profiler records its calls under a label."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return call


def every_second(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    """Return the function such that the profiler records every second call under a label."""
    turns = itertools.cycle((nullcontext, lambda: record_function(label)))

    def call(*args: Any) -> Any:
        with next(turns)():
            return function(*args)

    return call


@contextmanager
def labels(trainer: Trainer) -> Iterator[None]:
    """Record the parts of the steps of a training under their names in a ``with`` block."""
    parts = [(module, part_of(module)) for module in trainer.flow.modules()]
    calls: list[tuple[Any, str, str]] = [(module, "forward", part) for module, part in parts if part is not None]
    calls += [
        (trainer.batch_loss, "transform_pixels", PIXELS),
        (trainer.objective.multiplier, "penalty", PENALTY),
        (trainer.optimizer, "step", OPTIMIZER),
        (trainer.optimizer, "zero_grad", OPTIMIZER),
        (torch.nn.utils, "get_total_norm", OPTIMIZER),
        (loop, "average", AVERAGE),
        (Batches, "batch", DATA),
    ]
    with ExitStack() as stack:
        for owner, name, label in calls:
            stack.enter_context(patch.object(owner, name, labelled(getattr(owner, name), label)))
        # A self-normalizing product has two products in each pass: by W, then by R for the reconstruction error.
        for owner, name in ((matrices, "mix_channels"), (convolution, "convolve")):
            stack.enter_context(patch.object(owner, name, every_second(getattr(owner, name), PENALTY)))
        yield


def shares_of(events: Any) -> Shares:
    """Return the share of each part in the recorded time, from the events of a profile."""
    forward: dict[int, str] = {}
    seconds: Shares = {}

    def place(event: Any) -> tuple[str, bool]:
        """Return the part of an event, and whether it belongs to a backward pass."""
        label: str | None = None
        while event is not None:
            if label is None and event.name in PARTS:
                label = event.name
            if event.name.startswith(BACKWARD):
                return label or forward.get(event.sequence_nr, REST), True
            event = event.cpu_parent
        return label or REST, False

    # Of the operations with a number, the last one made the node of the backward pass.
    for event in sorted(events, key=lambda event: event.time_range.start):
        part, backward = place(event)
        if not backward and event.sequence_nr >= 0:
            forward[event.sequence_nr] = part
        seconds[part, backward] = seconds.get((part, backward), 0.0) + event.self_cpu_time_total
    total = sum(seconds.values())
    return {key: value / total for key, value in seconds.items()}


def measure(preset: str, precision: str, batch: int, steps: int) -> Shares:
    """Profile steps of a preset; return the share of each part."""
    recipe = find_preset(preset)
    config = recipe.config({"batch_size": batch, "precision": precision})
    architecture = recipe.architecture(SHAPE, config.pixel_transform)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    with training(architecture, config) as trainer:
        step = steps_of(trainer, 1, reports=False)
        step()
        with labels(trainer), profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(steps):
                labelled(step, REST)()
    return shares_of(profiled.events())


def rows_of(shares: Shares) -> dict[str, float]:
    """Return the share of each row of the table, forward and backward pass apart where both have rows."""
    rows = {}
    for part in PARTS:
        forward, backward = (shares.get((part, way), 0.0) for way in (False, True))
        if part in WITH_BACKWARD:
            rows |= {f"{part}, forward": forward, f"{part}, backward": backward}
        else:
            rows[part] = forward + backward
    return rows


def as_markdown(profiles: dict[str, dict[str, float]]) -> str:
    """Return the table for people: shares in per cent, the smallest as such."""
    lines = [f"| part of a step | {' | '.join(profiles)} |", "|---" * (len(profiles) + 1) + "|"]
    for row in next(iter(profiles.values())):
        cells = [100 * profile[row] for profile in profiles.values()]
        shown = ["" if share == 0 else "< 1 %" if share < 1 else f"{share:.0f} %" for share in cells]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Profile, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20, help="steps that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = describe(arguments.threads)
    if machine["load_before"] > 1:
        print(f"warning: expected a quiet machine, got a load of {machine['load_before']}", file=sys.stderr)
    profiles = {}
    for preset, precision in CASES:
        name = f"`{preset}`" if precision == "float32" else f"`{preset}`, {precision}"
        profiles[name] = rows_of(measure(preset, precision, arguments.batch, arguments.steps))
    table = as_markdown(profiles)
    print(table)
    document = {"machine": machine, "batch_size": arguments.batch, "steps": arguments.steps, "shares": profiles}
    write_atomically(arguments.out / "step_profile.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(arguments.out / "step_profile.md", table.encode())


if __name__ == "__main__":
    main()
