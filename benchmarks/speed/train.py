"""Training: ``python -m benchmarks.speed train``. Steps of whole trainings, with reports, and the memory of a step."""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.ours import random_images
from benchmarks.speed.pairing import Target, Turn, in_turns, ratio, timed
from benchmarks.speed.peers import FLOWS, PeerUnavailable, flows_child
from benchmarks.speed.results import Context
from benchmarks.speed.score import PeerGlow
from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import Dataset
from snf_models.flows.architecture import GlowArchitecture, PixelArchitecture
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import find_preset
from snf_models.training.divergence import ReportHistory

TITLE = "Training speed, side by side"
BATCH = 100
IMAGES = 400
PEER_BATCHES = (8, 16, 32, 64, 100)
STEPS_OF_MEMORY = (8, 16, 32)


def measure(context: Context) -> None:
    torch.set_num_threads(context.threads)
    glow(context)
    memory(context)


@contextmanager
def training(architecture: PixelArchitecture, config: TrainingConfig) -> Iterator[Trainer]:
    """Yield the training of a flow on random images, before its first step."""
    images = random_images(IMAGES, architecture.image_shape)
    dataset = Dataset("random", images, images[:100], images[:100], images[:100], "random")
    with tempfile.TemporaryDirectory(prefix="snf-train-") as folder:
        yield Trainer(dataset, architecture, config, Path(folder), lambda _event: None)


def steps_of(trainer: Trainer) -> Turn:
    """Return a turn that takes a step, with reports twice a second as in the training."""
    history, started = ReportHistory(0), time.monotonic()
    trainer.log_dets.start(trainer.flow)

    def step() -> None:
        number = trainer.state.step
        loss = trainer._step(trainer.batches.batch(number), number, 0.0)
        elapsed = time.monotonic() - started
        trainer.state = replace(trainer.state, step=number + 1, elapsed_seconds=elapsed)
        if history.due(elapsed):
            trainer._report(loss, history)

    return timed(step)


def glow(context: Context) -> None:
    """Measure steps of the Glow in float32 and as is chosen here, and those of normflows."""
    shape, targets = (1, 28, 28), {"float32": Target(low=1.3), "auto": Target(low=4.5)}
    if not context.wants(*(f"glow/{precision}" for precision in targets)):
        return
    preset = find_preset(context.glow)
    whats = {
        precision: f"{context.glow} 1x28x28: training step, ours in {precision} / normflows in eager float32 at its "
        "best batch"
        for precision in targets
    }
    with ExitStack() as stack:
        sides: dict[str, Turn] = {}
        for precision in targets:
            config = preset.config({"batch_size": BATCH, "precision": precision})
            architecture = preset.architecture(shape, config.pixel_transform)
            assert isinstance(architecture, GlowArchitecture)
            sides[precision] = steps_of(stack.enter_context(training(architecture, config)))
        details: dict[str, Any] = {"batch of ours": BATCH}
        try:
            process = stack.enter_context(flows_child(context.threads))
            peer = PeerGlow("normflows", process, context.glow, shape, context)
            found = {batch: BATCH * peer.turn("train", batch, batch)() / batch for batch in PEER_BATCHES for _ in "ab"}
            best = min(found, key=lambda batch: found[batch])
            details["normflows, images/s"] = {f"batch {batch}": BATCH / took for batch, took in found.items()}
            details["versions"] = FLOWS.versions()
        except PeerUnavailable as problem:
            for precision, target in targets.items():
                context.record(f"glow/{precision}", whats[precision], None, target, problem=str(problem))
            return
        seconds = in_turns(sides | {"normflows": peer.turn("train", BATCH, best)}, context.rounds)
    details["images/s, median"] = {side: BATCH / statistics.median(took) for side, took in seconds.items()}
    for precision, target in targets.items():
        found_ratio = ratio(seconds["normflows"], seconds[precision])
        context.record(f"glow/{precision}", whats[precision], found_ratio, target, **details)


def memory(context: Context) -> None:
    """Measure the memory of a step over the number of Glow steps, with invertible back-propagation and without."""
    key = "memory/recompute"
    if not context.wants(key):
        return
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        cases = [(steps, recompute) for recompute in (True, False) for steps in STEPS_OF_MEMORY]
        found = dict(zip(cases, pool.starmap(bytes_of_step, cases, chunksize=1), strict=True))
    first, last = STEPS_OF_MEMORY[0], STEPS_OF_MEMORY[-1]
    context.record(
        key,
        f"Glow, 2 levels, width 128, recompute: memory of a step of batch {BATCH} at K = {last} / at K = {first}",
        ratio([found[last, True]], [found[first, True]]),
        Target(0.9, 1.1),
        **{
            f"MiB of a step, {'recompute' if recompute else 'ordinary'}, K = {steps}": round(size / 2**20, 1)
            for (steps, recompute), size in found.items()
        },
    )


def bytes_of_step(steps: int, recompute: bool) -> int:
    """Return the most memory that tensors take in a forward and backward pass, weights and their gradients aside."""
    torch.set_num_threads(1)
    architecture = GlowArchitecture(channels=1, height=28, width=28, levels=2, steps=steps, hidden=128)
    config = TrainingConfig(batch_size=BATCH, precision="float32", recompute=recompute)
    with training(architecture, config) as trainer:
        images = trainer.batches.batch(0)
        torch.autograd.backward(trainer.loss_of(images[:1], 0).value)
        trainer.optimizer.zero_grad(set_to_none=False)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            torch.autograd.backward(trainer.loss_of(images, 0).value)
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
