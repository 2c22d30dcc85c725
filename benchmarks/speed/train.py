"""Training: ``python -m benchmarks.speed train``. Steps of whole trainings, with reports, and the memory of a step."""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.authors_step import AuthorsStep, gradient_difference
from benchmarks.speed.context import Context
from benchmarks.speed.glow_rows import PeerGlow
from benchmarks.speed.ours import random_images
from benchmarks.speed.pairing import Target, Turn, in_turns, ratio, timed
from benchmarks.speed.peers import PeerUnavailable, child, environments
from benchmarks.speed.training_products import coupling_products, dense_products
from snf_models.bijections.dense import SelfNormalizingDense
from snf_models.datasets import Dataset
from snf_models.flows.architecture import (
    ConvolutionalArchitecture,
    FullyConnectedArchitecture,
    GlowArchitecture,
    PixelArchitecture,
)
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import find_preset
from snf_models.training.config import TrainingConfig
from snf_models.training.divergence import ReportHistory

TITLE = "Training speed, side by side"
BATCH = 100
IMAGES = 400
PEER_BATCHES = (8, 16, 32, 64, 100)
SIDES = {784: (1, 28, 28), 3072: (3, 32, 32)}
REPEAT = {784: 20, 3072: 4}
STEPS_OF_MEMORY = (8, 16, 32)
SAME_GRADIENTS = 1e-3
"""Largest relative difference of gradients in float32 with which two steps are the same."""
TARGETS = {784: Target(high=0.45), 3072: Target(high=0.16)}


def measure(context: Context) -> None:
    """Measure all rows."""
    torch.set_num_threads(context.threads)
    for dimensions in (784,) if context.quick else SIDES:
        dense(context, dimensions)
        products(context, dimensions)
    convolutions(context)
    glow(context)
    memory(context)


@contextmanager
def training(architecture: PixelArchitecture, config: TrainingConfig) -> Iterator[Trainer]:
    """Yield the training of a flow on random images, before its first step."""
    images = random_images(IMAGES, architecture.image_shape)
    dataset = Dataset("random", images, images[:100], images[:100], images[:100], "random")
    with tempfile.TemporaryDirectory(prefix="snf-train-") as folder:
        yield Trainer(dataset, architecture, config, Path(folder), lambda _event: None)


def steps_of(trainer: Trainer, repeat: int, *, reports: bool) -> Turn:
    """Return a turn that takes steps, and reports them twice a second as the training does."""
    history, started = ReportHistory(0), time.monotonic()
    trainer.log_dets.start(trainer.flow)

    def step() -> None:
        number = trainer.state.step
        loss = trainer._step(trainer.batches.batch(number), number, 0.0)
        elapsed = time.monotonic() - started
        trainer.state = replace(trainer.state, step=number + 1, elapsed_seconds=elapsed)
        if reports and history.due(elapsed):
            trainer._report(loss, history)

    return timed(step, repeat)


def dense(context: Context, dimensions: int) -> None:
    """Measure a step of two dense layers: self normalizing with reports, exact without, and products alone."""
    key, limit = f"dense-{dimensions}", f"dense-{dimensions}-products"
    if not context.wants(key, limit):
        return
    channels, height, width = SIDES[dimensions]
    size = {"channels": channels, "height": height, "width": width}
    config = find_preset("snf-fc-2l").config({"batch_size": BATCH})
    with ExitStack() as stack:
        sides = {}
        for linear in ("self-normalizing", "exact"):
            architecture = FullyConnectedArchitecture.model_validate({**size, "linear": linear})
            trainer = stack.enter_context(training(architecture, config))
            sides[linear] = steps_of(trainer, REPEAT[dimensions], reports=linear == "self-normalizing")
        operands = _operands(dimensions)
        # Both layers.
        sides["products"] = timed(lambda: dense_products(*operands), 2 * REPEAT[dimensions])
        seconds = in_turns(sides, context.rounds)
    two = f"two dense layers, D = {dimensions}, batch {BATCH}"
    context.record(
        key,
        f"{two}: self normalizing step with reports / exact step without",
        ratio(seconds["self-normalizing"], seconds["exact"]),
        TARGETS[dimensions],
        **{"seconds a step, median": {side: sorted(took)[len(took) // 2] for side, took in seconds.items()}},
    )
    # What no implementation of the method in float32 can be below.
    context.record(
        limit,
        f"{two}: the twelve products of the self normalizing step alone / exact step",
        ratio([2 * each for each in seconds["products"]], seconds["exact"]),
    )


def products(context: Context, dimensions: int) -> None:
    """Measure forward and backward pass of one layer, and its six products alone."""
    key = f"products-{dimensions}"
    if not context.wants(key):
        return
    layer = SelfNormalizingDense(dimensions).train()
    operands = _operands(dimensions)
    vectors, _, _, slope = operands
    x = vectors.view(BATCH, dimensions, 1, 1).requires_grad_()

    def step() -> None:
        z, log_det = layer(x)
        outputs: list[Tensor] = [z, log_det.sum(), layer.pop_reconstruction_error().sum()]
        torch.autograd.grad(outputs, [x, *layer.parameters()], [slope.view_as(z), torch.ones(()), torch.ones(())])

    repeat = 2 * REPEAT[dimensions]
    alone = timed(lambda: dense_products(*operands), repeat)
    seconds = in_turns({"layer": timed(step, repeat), "products": alone}, context.rounds)
    context.record(
        key,
        f"a self normalizing dense layer, D = {dimensions}, batch {BATCH}: forward and backward pass / six products",
        ratio(seconds["layer"], seconds["products"]),
        Target(high=1.25),
    )


def _operands(dimensions: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, W, R and a gradient of the outputs of a dense layer."""
    rows = (BATCH, dimensions, dimensions, BATCH)
    vectors, weight, inverse, slope = (torch.randn(count, dimensions) for count in rows)
    return vectors, weight, inverse, slope


def convolutions(context: Context) -> None:
    """Measure a step of the nine-layer convolutional flow: ours with reports, and the authors' structure without."""
    key, shape = "conv/authors", (1, 28, 28)
    if not context.wants(key):
        return
    preset = find_preset("snf-conv-9l")
    config = preset.config({"batch_size": BATCH})
    what = f"{preset.name} 1x28x28, batch {BATCH}: training step, ours with reports / the authors' structure without"
    architecture = preset.architecture(shape, config.pixel_transform)
    assert isinstance(architecture, ConvolutionalArchitecture)
    with training(architecture, config) as trainer:
        authors = AuthorsStep(trainer.flow, config.learning_rate, config.reconstruction_weight)
        x = trainer.batches.batch(0)
        torch.autograd.backward(trainer.loss_of(x, 0).value)
        authors.gradients(x.float())
        apart = gradient_difference(trainer.flow, authors.flow, x[0].numel())
        if not apart <= SAME_GRADIENTS:
            context.failed(key, what, f"their gradients differ by {apart:.3g}: no comparison", Target(low=3))
            return
        sides = {
            "ours": steps_of(trainer, 1, reports=True),
            "authors": timed(lambda: authors(trainer.batches.batch(trainer.state.step).float())),
        }
        seconds = in_turns(sides, context.rounds)
    context.record(
        key,
        what,
        ratio(seconds["authors"], seconds["ours"]),
        Target(low=3),
        **{
            "largest relative difference of a gradient": apart,
            "seconds a step, median": {side: sorted(took)[len(took) // 2] for side, took in seconds.items()},
            "theirs": "eager PyTorch, float32, Adam as it is by default, a backward pass a layer for its inverse",
        },
    )


def glow(context: Context) -> None:
    """Measure steps of the Glow in float32 and as is chosen here, those of normflows, and products alone."""
    shape = (1, 28, 28)
    said = f"{context.glow} 1x28x28"
    keys = ("glow/float32", "glow/auto")
    if not context.wants(*keys, "glow/products"):
        return
    preset = find_preset(context.glow)
    with ExitStack() as stack:
        sides: dict[str, Turn] = {}
        for precision in ("float32", "auto"):
            config = preset.config({"batch_size": BATCH, "precision": precision})
            architecture = preset.architecture(shape, config.pixel_transform)
            assert isinstance(architecture, GlowArchitecture)
            trainer = stack.enter_context(training(architecture, config))
            if precision == "float32":
                sides["products"] = coupling_products(trainer, torch.float32)
            sides[precision] = steps_of(trainer, 1, reports=True)
        details: dict[str, Any] = {"batch of ours": BATCH}
        try:
            process = stack.enter_context(child("flows", "flows.py", context.threads))
            peer = PeerGlow("normflows", process, context.glow, shape, context)
            found = {batch: BATCH * peer.turn("train", batch, batch)() / batch for batch in PEER_BATCHES for _ in "ab"}
            best = min(found, key=lambda batch: found[batch])
            details["normflows, images/s"] = {f"batch {batch}": BATCH / took for batch, took in found.items()}
            sides["normflows"] = peer.turn("train", BATCH, best)
            details["versions"] = environments()["flows"].versions()
        except PeerUnavailable as problem:
            details["normflows is missing"] = str(problem)
        seconds = in_turns(sides, context.rounds)
    details["images/s, median"] = {side: BATCH / sorted(took)[len(took) // 2] for side, took in seconds.items()}
    context.record(
        "glow/products",
        f"{said}: training step, ours in float32 / the matrix products of its coupling networks alone",
        ratio(seconds["float32"], seconds["products"]),
    )
    for key, precision, target in zip(keys, ("float32", "auto"), (Target(low=1.3), Target(low=4.5)), strict=True):
        what = f"{said}: training step, ours in {precision} / normflows in eager float32 at its best batch"
        if "normflows" not in seconds:
            context.failed(key, what, str(details["normflows is missing"]), target)
            continue
        context.record(key, what, ratio(seconds["normflows"], seconds[precision]), target, **details)


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
