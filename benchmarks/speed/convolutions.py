"""The convolutions of the coupling nets alone: the time below which no engine of their kind can come."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.speed.pairing import Turn, timed
from snf_models.bijections.coupling import FrozenCoupling
from snf_models.scoring.frozen import FlowEngine, FrozenFlow
from snf_runtime.scoring.openvino_engine import CompiledGraph, compile_settings, core, op, ov


def convolutions_alone(engine: FlowEngine, frozen: FrozenFlow, images: int, threads: int) -> tuple[Turn, str]:
    """Return a turn that does only the convolutions, bias and ReLU of all couplings, and what it does, in words.

    The same shapes, weights, order and number of images at once as ``engine``, in OpenVINO; each net is fed the first
    channels of what the last one gave.
    """
    tile, settings = engine.micro_batch, compile_settings(threads, threads)
    graph = CompiledGraph(core().compile_model(model_of(frozen, tile), "CPU", settings), threads)
    return timed(graph.on_noise(images)[0]), f"{engine.name}, {engine.precision}, tiles of {tile}, one a thread"


def levels_of(frozen: FrozenFlow) -> list[tuple[int, int, list[FrozenCoupling]]]:
    """Return height, width and couplings of each level, the prior's among them."""
    _, height, width = frozen.image_shape
    found = []
    for level in frozen.levels:
        couplings = [step for step in (*level.steps, level.prior) if isinstance(step, FrozenCoupling)]
        height, width = height // 2, width // 2
        found.append((height, width, couplings))
    return found


def convolution(x: Any, parameters: tuple[Tensor, Tensor]) -> Any:
    weight, bias = (one.contiguous().numpy() for one in parameters)
    pads = [weight.shape[2] // 2, weight.shape[3] // 2]
    y = op.convolution(x, op.constant(weight), [1, 1], pads, pads, [1, 1])
    return op.add(y, op.constant(bias.reshape(1, -1, 1, 1)))


def model_of(frozen: FrozenFlow, tile: int) -> ov.Model:
    inputs, outputs = [], []
    for height, width, couplings in levels_of(frozen):
        x = op.parameter([tile, couplings[0].kept, height, width], np.float32)
        inputs.append(x)
        for place, coupling in enumerate(couplings):
            if (
                place
            ):  # the last convolution gives as many channels as the coupling has, the next one takes half of them
                begin, end, step, axis = (op.constant(np.array([value])) for value in (0, coupling.kept, 1, 1))
                x = op.slice(x, begin, end, step, axis)
            hidden = op.relu(convolution(x, coupling.first))
            x = convolution(op.relu(convolution(hidden, coupling.middle)), coupling.last)
        outputs.append(op.result(x))
    return ov.Model(outputs, inputs, "convolutions")
