"""Table 3: paired ratios of the times of training steps, and of a sample by the learned and by the exact inverse.

Whole steps of trainings on real images: batch, forward, backward, optimiser. The sides of a group take turns.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track

from benchmarks.paper.exact_convolutions import WAYS, use_way
from benchmarks.paper.plan import finish_on
from benchmarks.paper.recipes import architecture_of, config_of, dataset_of
from benchmarks.paper.rows import CIFAR10, CONVOLUTIONAL, DENSE, GLOW, Group, Row
from benchmarks.speed.pairing import Turn, in_turns, ratio, timed
from snf_models.pipeline.loop import Trainer

REPEAT = {"dense": 20, "convolutional": 1, "glow": 1, "cifar10": 1}
"""Steps a turn."""
SAMPLES = 5
"""Single samples a turn."""


class PaperTimes(NamedTuple):
    """The paper's milliseconds of a batch and of a sample (Table 3)."""

    batch: float
    sample: float


PAPER: dict[tuple[str, str], PaperTimes] = {
    ("dense", "exact"): PaperTimes(44.9, 61.5),
    ("dense", "relative"): PaperTimes(7.0, 69.2),
    ("dense", "snf"): PaperTimes(18.7, 38.6),
    ("convolutional", "exact"): PaperTimes(372.2, 241.6),
    ("convolutional", "emerging"): PaperTimes(305.0, 71.7),
    ("convolutional", "exponential"): PaperTimes(304.4, 84.2),
    ("convolutional", "snf"): PaperTimes(212.5, 29.9),
    ("glow", "exact"): PaperTimes(583.4, 163.1),
    ("glow", "snf"): PaperTimes(476.4, 30.6),
    ("cifar10", "exact"): PaperTimes(1841.3, 126.3),
    ("cifar10", "snf"): PaperTimes(1761.2, 97.8),
}
GROUPS = (DENSE, CONVOLUTIONAL, GLOW, CIFAR10)


def measure(rounds: int, device: str, groups: tuple[Group, ...] = GROUPS) -> dict[str, Any]:
    """Return the times of all rows and their ratios to the exact row, by group."""
    return {group.name: measure_group(group, rounds, device) for group in groups}


def measure_group(group: Group, rounds: int, device: str) -> dict[str, Any]:
    """Return the times of the rows of a group; for exact convolutions those of each way to their log-det."""
    exact = group.row(group.reference)
    rows = {row.name: row for row in group.rows}
    if group.family == "convolutional":
        rows |= dict.fromkeys(WAYS, exact)
    with ExitStack() as stack:
        batches: dict[str, Turn] = {}
        samples: dict[str, Turn] = {}
        for name, row in track(rows.items(), description=group.name):
            trainer = started(group, row, device, stack, name)
            batches[name] = timed(steps_of(trainer), REPEAT[group.name], finish_on(device))
            if row.name == name:
                samples |= {f"{name}, {how}": turn for how, turn in sample_turns(trainer, name == "snf").items()}
        step_seconds = in_turns(batches, rounds)
        sample_seconds = in_turns(samples, rounds)
    return {
        "rounds": rounds,
        "batch_size": 100,
        "step_ms": {name: 1e3 * statistics.median(took) for name, took in step_seconds.items()},
        "sample_ms": {name: 1e3 * statistics.median(took) for name, took in sample_seconds.items()},
        "step_ratios": {
            f"{over} / {under}": asdict(ratio(step_seconds[over], step_seconds[under]))
            for over, under in pairs(list(step_seconds), group.reference)
        },
        "sample_ratios": {
            "learned / exact": asdict(ratio(sample_seconds["snf, learned"], sample_seconds["snf, exact"]))
        },
    }


def pairs(names: list[str], reference: str) -> list[tuple[str, str]]:
    """Return the pairs whose ratio is reported: every row over the reference, and SNF over exact ones of other ways.

    >>> pairs(["snf", "exact", "exact, blocks"], "exact")
    [('snf', 'exact'), ('exact, blocks', 'exact'), ('snf', 'exact, blocks')]
    """
    found = [(name, reference) for name in names if name != reference]
    return [*found, *(("snf", name) for name in names if name in WAYS and name != reference)]


def started(group: Group, row: Row, device: str, stack: ExitStack, name: str) -> Trainer:
    """Return a training of a row after its first step, with published settings, by the way that ``name`` says."""
    dataset = dataset_of(group.dataset)
    config = config_of(group, row, "published", 1000, 0)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snf-paper-")))
    architecture = architecture_of(row, dataset.image_shape, config)
    trainer = Trainer(dataset, architecture, config, folder, lambda _event: None, device)
    if name in WAYS:
        use_way(trainer.flow, name)
    steps_of(trainer)()
    return trainer


def steps_of(trainer: Trainer) -> Callable[[], None]:
    """Return work that takes one step of a training."""

    def step() -> None:
        number = trainer.state.step
        trainer._step(trainer.batches.batch(number).to(trainer.device), number, 0.0)
        trainer.state = replace(trainer.state, step=number + 1)

    return step


def sample_turns(trainer: Trainer, learned: bool) -> dict[str, Turn]:
    """Return turns that draw single samples as the published code does, by inverses computed at every call."""
    flow = trainer.flow
    with torch.no_grad():
        latents = flow.eval()(trainer.batches.batch(0)[:1].float().to(trainer.device)).latents
    flow.train()

    def draw(inverse: bool) -> Callable[[], None]:
        @torch.no_grad()
        def work() -> None:
            flow.eval()
            flow.inverse(latents, learned=inverse)
            flow.train()

        return work

    ways = {"exact": False} | ({"learned": True} if learned else {})
    return {how: timed(draw(way), SAMPLES, finish_on(trainer.device)) for how, way in ways.items()}
