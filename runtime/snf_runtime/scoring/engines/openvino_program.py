"""Execution of compiled OpenVINO graphs on any number of images, in batches of fixed size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from snf_runtime.kinds import GraphPart
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.tiles import Tiling

Arrays = list[NDArray[np.float32]]
Inputs = Sequence[NDArray[np.float32] | NDArray[np.uint8]]
Outputs = Sequence[tuple[GraphPart, int]]
"""Kind, such as latents, and level of each output of a graph, in order."""


@cache
def core() -> ov.Core:
    """Return the OpenVINO runtime that all code of this process shares."""
    return ov.Core()


@dataclass(frozen=True)
class Compiled:
    """A compiled graph, with its name in a cache and a function that stores it, where there are any."""

    model: ov.CompiledModel
    name: str | None = None
    store: Callable[[bytes], None] | None = None

    def keep(self) -> None:
        if self.store is not None:
            self.store(self.model.export_model().getvalue())


class Program:
    """Compiled graph for any number of images, run one by one or in waves of a tile a thread, with the same bits."""

    def __init__(self, outputs: Outputs, tiling: Tiling, single: Lanes, wave: Callable[[], Lanes | None]) -> None:
        self.outputs = outputs
        self.tiling = tiling
        self.single = single
        self._opening = threading.Lock()
        self._open_wave: Callable[[], Lanes | None] | None = wave
        self._wave: Lanes | None = None

    @property
    def wave(self) -> Lanes | None:
        """The graph that runs a tile on every thread, opened by the first call; None where that fails."""
        with self._opening:
            if self._open_wave is not None:
                self._wave, self._open_wave = self._open_wave(), None
            return self._wave

    def __call__(self, inputs: Inputs) -> Arrays:
        """Run the compiled graph on any number of images and return its outputs, float32 ``(images, ...)`` each."""
        images = len(inputs[0])
        outputs = self.single.outputs(images)
        in_waves = min(images, self.tiling.waves(images) * self.tiling.tile * self.tiling.lanes)
        wave = self.wave if in_waves else None
        if wave is None:
            in_waves = 0
        else:
            wave.run(inputs, outputs, 0, in_waves)
        self.single.run(inputs, outputs, in_waves, images)
        return outputs


class Lanes:
    """A compiled OpenVINO graph that computes ``count`` batches of images in parallel, one batch in each lane."""

    def __init__(self, compiled: Compiled, count: int) -> None:
        self.compiled = compiled
        self.count = count
        model = compiled.model
        self._requests = [model.create_infer_request() for _ in range(count)]
        self.tile = int(model.input(0).get_shape()[0])
        self._input_shapes = [tuple(port.get_shape())[1:] for port in model.inputs]
        self._takes_bytes = model.input(0).get_element_type() == ov.Type.u8
        self._output_shapes = [tuple(port.get_shape())[1:] for port in model.outputs]

    def outputs(self, images: int) -> Arrays:
        """Return uninitialised float32 arrays for the outputs of ``images`` images."""
        return [np.empty((images, *shape), dtype=np.float32) for shape in self._output_shapes]

    def on_noise(self, images: int) -> tuple[Callable[[], None], Arrays]:
        """Return a function that runs the graph on random images, and the arrays that it fills."""
        random = np.random.default_rng(0)
        shapes = [(images, *shape) for shape in self._input_shapes]
        inputs: Inputs
        if self._takes_bytes:
            inputs = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
        else:
            inputs = [random.standard_normal(shape, dtype=np.float32) for shape in shapes]
        outputs = self.outputs(images)
        return lambda: self.run(inputs, outputs, 0, images), outputs

    def run(self, inputs: Inputs, outputs: Arrays, start: int, stop: int) -> None:
        """Run the graph on rows ``start`` to ``stop - 1`` of all inputs; write the same rows of ``outputs``."""
        running: list[tuple[int, int] | None] = [None] * len(self._requests)
        try:
            for number, first in enumerate(range(start, stop, self.tile)):
                lane = number % len(self._requests)
                self._collect(lane, running, outputs)
                last = min(first + self.tile, stop)
                for index, values in enumerate(inputs):
                    self._requests[lane].get_input_tensor(index).data[: last - first] = values[first:last]
                self._requests[lane].start_async()
                running[lane] = first, last
        finally:
            for lane in range(len(self._requests)):
                self._collect(lane, running, outputs)

    def _collect(self, lane: int, running: list[tuple[int, int] | None], outputs: Arrays) -> None:
        place, running[lane] = running[lane], None
        if place is None:
            return
        request = self._requests[lane]
        request.wait()
        first, last = place
        for index, values in enumerate(outputs):
            values[first:last] = request.get_output_tensor(index).data[: last - first]
