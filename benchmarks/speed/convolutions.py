# ruff: noqa: PLC0415 - an optional engine is imported where it is used
"""The convolutions of the coupling nets alone: the time below which no engine of their kind can come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.pairing import Turn, timed
from snf_models.bijections.coupling import FrozenCoupling
from snf_models.scoring.frozen import FlowEngine, FrozenFlow
from snf_models.scoring.torch_engine import TorchEngine

if TYPE_CHECKING:
    from snf_runtime.scoring.openvino_engine import ov

Level = tuple[int, int, list[FrozenCoupling]]
"""Height, width and couplings of a level, the prior's among them."""


def convolutions_alone(engine: FlowEngine, frozen: FrozenFlow, images: int, threads: int) -> tuple[Turn, str]:
    """Return a turn that does only the convolutions, bias and ReLU of all couplings, and what it does, in words.

    The same shapes, weights, order, engine and number of images at once as ``engine``; each net is fed the first
    channels of what the last one gave.
    """
    said = f"{engine.name}, {engine.precision}, tiles of {engine.micro_batch}"
    if isinstance(engine, TorchEngine):
        return _by_torch(frozen, images, engine.micro_batch), said
    return _by_openvino(frozen, images, engine.micro_batch, threads), f"{said}, one a thread"


def levels_of(frozen: FrozenFlow) -> list[Level]:
    """Return the couplings by level, with the sides of their inputs."""
    _, height, width = frozen.image_shape
    found = []
    for level in frozen.levels:
        couplings = [step for step in level.steps if isinstance(step, FrozenCoupling)]
        if isinstance(level.prior, FrozenCoupling):
            couplings.append(level.prior)
        height, width = height // 2, width // 2
        found.append((height, width, couplings))
    return found


def _by_torch(frozen: FrozenFlow, images: int, tile: int) -> Turn:
    levels = levels_of(frozen)

    @torch.inference_mode()
    def work() -> None:
        for first in range(0, images, tile):
            count = min(tile, images - first)
            for height, width, couplings in levels:
                x = torch.zeros(count, couplings[0].kept, height, width).contiguous(memory_format=torch.channels_last)
                for coupling in couplings:
                    x = _net(coupling, x[:, : coupling.kept])

    return timed(work)


def _net(coupling: FrozenCoupling, x: Tensor) -> Tensor:
    hidden = F.relu_(F.conv2d(x, *coupling.first, padding=1))
    hidden = F.relu_(F.conv2d(hidden, *coupling.middle))
    return F.conv2d(hidden, *coupling.last, padding=1)


def _by_openvino(frozen: FrozenFlow, images: int, tile: int, threads: int) -> Turn:
    from snf_runtime.scoring.openvino_engine import CompiledGraph, compile_settings, core

    settings = compile_settings(threads, threads)
    graph = CompiledGraph(core().compile_model(_openvino_model(frozen, tile), "CPU", settings), threads)
    return timed(graph.on_noise(images)[0])


def _openvino_model(frozen: FrozenFlow, tile: int) -> ov.Model:
    from snf_runtime.scoring.openvino_engine import op, ov

    def convolution(x: object, parameters: tuple[Tensor, Tensor]) -> object:
        weight, bias = (one.contiguous().numpy() for one in parameters)
        pads = [weight.shape[2] // 2, weight.shape[3] // 2]
        y = op.convolution(x, op.constant(weight), [1, 1], pads, pads, [1, 1])
        return op.add(y, op.constant(bias.reshape(1, -1, 1, 1)))

    def first_channels(x: object, count: int) -> object:
        begin, end, step, axis = (op.constant(np.array([value])) for value in (0, count, 1, 1))
        return op.slice(x, begin, end, step, axis)

    inputs, outputs = [], []
    for height, width, couplings in levels_of(frozen):
        given = op.parameter([tile, couplings[0].kept, height, width], np.float32)
        x: object = given
        for place, coupling in enumerate(couplings):
            # The last convolution gives as many channels as the coupling has, the next one takes half of them.
            x = first_channels(x, coupling.kept) if place else x
            hidden = op.relu(convolution(x, coupling.first))
            hidden = op.relu(convolution(hidden, coupling.middle))
            x = convolution(hidden, coupling.last)
        inputs.append(given)
        outputs.append(op.result(x))
    return ov.Model(outputs, inputs, "convolutions")
