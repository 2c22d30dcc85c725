"""Compiled OpenVINO graphs for any number of images, in tiles of a fixed size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.kinds import GraphPart
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.tiles import DEFAULT_TILE, Tiling, fastest_tile, seconds, unmeasured

log = logging.getLogger(__name__)

Arrays = list[NDArray[np.float32]]
Inputs = Sequence[NDArray[np.float32] | NDArray[np.uint8]]

"""What an output of a graph holds."""

NEVER = 1e6
"""Seconds for a single image that prevent single images from being computed alone."""


@dataclass
class Graph:
    """An OpenVINO graph of a flow for a fixed number of images, with kind (such as latents) and level of each output.

    Attributes:
        model: The graph.
        outputs: Kind and level of each output, in order.
    """

    model: ov.Model
    outputs: list[tuple[GraphPart, int]]


@cache
def core() -> ov.Core:
    """Return the OpenVINO runtime (``ov.Core``) of this process, which the first call creates and later calls reuse."""
    return ov.Core()


@dataclass(frozen=True)
class Compiled:
    """A compiled OpenVINO graph, and what stores it.

    Attributes:
        model: The compiled graph.
        store: A function that stores the exported graph; None if it is stored already, or is not to be.
    """

    model: ov.CompiledModel
    store: Callable[[bytes], None] | None = None

    def keep(self) -> None:
        """Store the compiled graph, unless it is stored already or is not to be."""
        if self.store is not None:
            self.store(self.model.export_model().getvalue())


class ProgramCache(Protocol):
    """Interface of a store of compiled graphs and measured tile sizes."""

    def compile(self, model: ov.Model, settings: dict[str, Any]) -> Compiled:
        """Return a graph compiled for the CPU, the stored one if there is one."""
        ...

    def tiling(self, model: ov.Model, lanes: int) -> Tiling | None:
        """Return the stored tile size of a graph for one image and so many threads; None if there is none."""
        ...

    def keep_tiling(self, model: ov.Model, tiling: Tiling) -> None:
        """Store the tile size of a graph for one image."""
        ...


class Program:
    """A compiled OpenVINO graph that runs on any number of images: many in parallel, a few one by one on all threads.

    A few images are fastest one after the other with all threads each; many images are fastest if threads do not wait
    for each other. If there is a cache, the tile size is measured. Unless both forms give the same results to the last
    bit, only waves are used, in which each thread computes a full tile.

    Args:
        graph: A function that returns the graph for a number of images.
        threads: Threads on the CPU.
        cache: Where compiled graphs and measured tile sizes are kept; None to compile each time, and measure nothing.
        tile: The tile size without a measurement.
    """

    def __init__(
        self,
        graph: Callable[[int], Graph],
        threads: int,
        cache: ProgramCache | None = None,
        tile: int = DEFAULT_TILE,
    ) -> None:
        self._lanes = threads
        self._cache = cache
        single = graph(1)
        self.outputs: list[tuple[GraphPart, int]] = single.outputs
        self._single = self._compile(single, lanes=1)
        stored = None if cache is None else cache.tiling(single.model, threads)
        if cache is None or stored is not None:
            self.tiling = stored or unmeasured(threads, tile)
            alone = self.tiling.tile == threads == 1
            self._wave = self._single if alone else self._compile(graph(self.tiling.tile), threads)
            if stored is None and not self._agree(self._wave):
                self.tiling = replace(self.tiling, single=NEVER)
        else:
            self.tiling, self._wave = self._measure(graph)
            cache.keep_tiling(single.model, self.tiling)
        for lanes in (self._single, self._wave):
            lanes.compiled.keep()

    def __call__(self, inputs: Inputs) -> Arrays:
        """Run the compiled graph on any number of images and return its outputs, float32 ``(images, ...)`` each."""
        images = len(inputs[0])
        outputs = self._single.outputs(images)
        in_waves = min(images, self.tiling.waves(images) * self.tiling.tile * self._lanes)
        self._wave.run(inputs, outputs, 0, in_waves)
        self._single.run(inputs, outputs, in_waves, images)
        return outputs

    def _compile(self, graph: Graph, lanes: int) -> Lanes:
        # Pinned threads would wait for other processes on their core.
        settings = {
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": self._lanes,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        if self._cache is not None:
            return Lanes(self._cache.compile(graph.model, settings), lanes)
        return Lanes(Compiled(core().compile_model(graph.model, "CPU", settings)), lanes)

    def _measure(self, graph: Callable[[int], Graph]) -> tuple[Tiling, Lanes]:
        waves: dict[int, Lanes] = {}

        def wave(tile: int) -> Callable[[], object]:
            waves[tile] = self._compile(graph(tile), self._lanes)
            return waves[tile].on_noise(tile * self._lanes)[0]

        tile = fastest_tile(wave)
        images = tile * self._lanes
        tiling = Tiling(
            tile=tile,
            lanes=self._lanes,
            wave=seconds(waves[tile].on_noise(images)[0]),
            single=seconds(self._single.on_noise(images)[0]) / images,
        )
        if not self._agree(waves[tile]):
            tiling = replace(tiling, single=NEVER)
        return tiling, waves[tile]

    def _agree(self, wave: Lanes) -> bool:
        """Return whether images get the same bits in a full tile and alone."""
        images = wave.tile * self._lanes
        results = []
        for lanes in (wave, self._single):
            run, outputs = lanes.on_noise(images)
            run()
            results.append(outputs)
        same = all(np.array_equal(together, alone, equal_nan=True) for together, alone in zip(*results, strict=True))
        if not same:
            log.warning(
                "a single image and a tile of %d differ in their last bits: single images are computed in full tiles",
                wave.tile,
            )
        return same


class Lanes:
    """A compiled OpenVINO graph that runs on ``lanes`` batches of images at the same time."""

    def __init__(self, compiled: Compiled, lanes: int) -> None:
        self.compiled = compiled
        model = compiled.model
        self._requests = [model.create_infer_request() for _ in range(lanes)]
        self.tile = int(model.input(0).get_shape()[0])
        self._input_shapes = [tuple(port.get_shape())[1:] for port in model.inputs]
        self._takes_bytes = model.input(0).get_element_type() == ov.Type.u8
        self._output_shapes = [tuple(port.get_shape())[1:] for port in model.outputs]

    def outputs(self, images: int) -> Arrays:
        """Return uninitialised float32 arrays for the graph's results on ``images`` images, one array per output."""
        return [np.empty((images, *shape), dtype=np.float32) for shape in self._output_shapes]

    def on_noise(self, images: int) -> tuple[Callable[[], None], Arrays]:
        """Return a function that runs the graph on ``images`` noise images, for timing, and its result arrays."""
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
        """Run the graph on ``inputs[start:stop]`` and write the results to the same rows of ``outputs``."""
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
