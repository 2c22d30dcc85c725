# ruff: noqa: PLC0415 - an optional engine is imported where it is used
"""The convolutions of the coupling nets alone: the time below which no engine of their kind can come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.pairing import Turn, timed
from models.bijections.coupling import FrozenCoupling
from models.scoring.engines import Engine, TorchEngine
from models.scoring.frozen import FrozenFlow

OPENVINO_TILE = 4
"""Images at once where the engine does not say how many it takes."""

Level = tuple[int, int, list[FrozenCoupling]]
"""Height, width and couplings of a level, the prior's among them."""


def convolutions_alone(engine: Engine, frozen: FrozenFlow, images: int, threads: int) -> tuple[Turn, str]:
    """Return a turn that does only the convolutions, bias and ReLU of all couplings, and what it does, in words.

    The same shapes, weights, order, engine and number of images at once as ``engine``; each net is fed the first
    channels of what the last one gave.
    """
    tile = images_at_once(engine)
    said = f"{engine.name}, {engine.precision}, {tile} images at once"
    if isinstance(engine, TorchEngine):
        return _by_torch(frozen, images, tile), said
    return _by_openvino(frozen, images, tile, threads, engine.precision), said


def images_at_once(engine: Engine) -> int:
    """Return how many images an engine takes at once."""
    return int(getattr(engine, "tile", None) or getattr(engine, "batch", None) or OPENVINO_TILE)


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


def _by_openvino(frozen: FrozenFlow, images: int, tile: int, threads: int, precision: str) -> Turn:
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    requests = []
    for model, shape in _openvino_models(frozen, tile):
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(np.zeros(shape, dtype=np.float32)))
        requests.append(request)

    def work() -> None:
        for _ in range(-(-images // tile)):
            for request in requests:
                request.infer()

    return timed(work)


def _openvino_models(frozen: FrozenFlow, tile: int) -> Iterator[tuple[object, tuple[int, ...]]]:
    import openvino as ov
    from openvino import opset13 as ops

    def convolution(x: object, parameters: tuple[Tensor, Tensor]) -> object:
        weight, bias = (one.contiguous().numpy() for one in parameters)
        pads = [weight.shape[2] // 2, weight.shape[3] // 2]
        y = ops.convolution(x, ops.constant(weight), [1, 1], pads, pads, [1, 1])
        return ops.add(y, ops.constant(bias.reshape(1, -1, 1, 1)))

    def first_channels(x: object, count: int) -> object:
        begin, end, step, axis = (ops.constant(np.array([value])) for value in (0, count, 1, 1))
        return ops.slice(x, begin, end, step, axis)

    for height, width, couplings in levels_of(frozen):
        shape = (tile, couplings[0].kept, height, width)
        given = ops.parameter(shape, np.float32)
        x: object = given
        for place, coupling in enumerate(couplings):
            # The last convolution gives as many channels as the coupling has, the next one takes half of them.
            x = first_channels(x, coupling.kept) if place else x
            hidden = ops.relu(convolution(x, coupling.first))
            hidden = ops.relu(convolution(hidden, coupling.middle))
            x = convolution(hidden, coupling.last)
        yield ov.Model([ops.result(x)], [given], "convolutions"), shape
