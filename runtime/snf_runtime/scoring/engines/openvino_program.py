"""Compiled OpenVINO graphs for any number of images, in tiles of a fixed size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.scoring.engines.compiled_cache import Compiled, CompiledCache, graph_digest
from models.scoring.engines.openvino_graph import Graph, Part
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.tiles import Tiling, fastest_tile, seconds, store_tiling, stored_tiling, unmeasured

log = logging.getLogger(__name__)

Arrays = list[NDArray[np.float32]]
Inputs = Sequence[NDArray[np.float32] | NDArray[np.uint8]]

NEVER = 1e6
"""Seconds for a single image that prevent single images from being computed alone."""


class Program:
    """A compiled OpenVINO graph that runs on any number of images: many in parallel, a few one by one on all threads.

    A few images are fastest one after the other with all threads each; many images are fastest if threads do not wait
    for each other. If there is a cache, the tile size is measured. Unless both forms give the same results to the last
    bit, only waves are used, in which each thread computes a full tile.

    Args:
        graph: A function that returns the graph for a number of images.
        threads: Threads on the CPU; None for all cores.
        cache: Folder for compiled graphs and measured tile sizes, or None.
    """

    def __init__(self, graph: Callable[[int], Graph], threads: int | None = None, cache: Path | None = None) -> None:
        self._lanes = threads or torch.get_num_threads()
        self._cache = CompiledCache(cache)
        single = graph(1)
        self.outputs: list[tuple[Part, int]] = single.outputs
        self._single = self._compile(single, lanes=1)
        stored = None if cache is None else cache / f"{graph_digest(single.model)}-{self._lanes}.json"
        tiling = None if stored is None else stored_tiling(stored, self._lanes)
        if tiling is not None or stored is None:
            self.tiling = tiling or unmeasured(self._lanes)
            self._wave = self._compile(graph(self.tiling.tile), self._lanes)
            if tiling is None and not self._agree(self._wave):
                self.tiling = self.tiling.model_copy(update={"single": NEVER})
        else:
            self.tiling, self._wave = self._measure(graph)
            store_tiling(stored, self.tiling)
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
        return Lanes(self._cache.compile(graph.model, settings), lanes)

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
            tiling = tiling.model_copy(update={"single": NEVER})
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
