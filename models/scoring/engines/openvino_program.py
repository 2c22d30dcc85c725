"""A graph compiled for this machine, run over any number of images in tiles of fixed sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from models.scoring.engines.compiled_cache import CompiledCache, graph_digest
from models.scoring.engines.openvino_graph import Graph, Part
from models.scoring.engines.tiles import Tiling, fastest_tile, seconds, store_tiling, stored_tiling, unmeasured

log = logging.getLogger(__name__)

Arrays = list[NDArray[np.float32]]


class Program:
    """``graph(images)``, compiled twice: for one image by all threads, and for waves of tiles, one a thread.

    A few images are fastest one after the other, each by all threads; many where threads never wait for each other.
    The size of the tiles is measured where there is a ``cache`` to keep it in, and with it that both ways give the same
    to the bit, without which only waves are used.
    """

    def __init__(self, graph: Callable[[int], Graph], threads: int | None = None, cache: Path | None = None) -> None:
        self._graph = graph
        self._lanes = threads or torch.get_num_threads()
        self._compiled = CompiledCache(cache)
        one = graph(1)
        self.outputs: list[tuple[Part, int]] = one.outputs
        self._single = self._compile(one, lanes=1)
        measured = None if cache is None else cache / f"{graph_digest(one.model)}-{self._lanes}.json"
        tiling = None if measured is None else stored_tiling(measured, self._lanes)
        if tiling is None:
            tiling = unmeasured(self._lanes) if measured is None else self._measure()
            if measured is not None:
                store_tiling(measured, tiling)
        self.tiling: Tiling = tiling
        self._wave = self._compile(graph(tiling.tile), self._lanes)

    def __call__(self, inputs: Sequence[NDArray[np.float32]]) -> Arrays:
        """Map arrays with ``images`` first to the outputs, float32, ``images`` first."""
        images = len(inputs[0])
        outputs = [np.empty((images, *shape), dtype=np.float32) for shape in self._single.output_shapes]
        in_waves = min(images, self.tiling.waves(images) * self.tiling.tile * self._lanes)
        self._wave.run(inputs, outputs, 0, in_waves)
        self._single.run(inputs, outputs, in_waves, images)
        return outputs

    def _compile(self, graph: Graph, lanes: int, *, keep: bool = True) -> Lanes:
        # Pinned threads would wait for whatever else runs on their core; the rest says what is meant.
        settings = {
            "NUM_STREAMS": lanes,
            "INFERENCE_NUM_THREADS": self._lanes,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        return Lanes(self._compiled.compile(graph.model, settings, keep=keep), lanes)

    def _measure(self) -> Tiling:
        random = np.random.default_rng(0)
        most = [random.standard_normal((64, *shape), dtype=np.float32) for shape in self._single.input_shapes]
        waves: dict[int, Lanes] = {}

        def wave(tile: int) -> Callable[[], object]:
            lanes = waves[tile] = self._compile(self._graph(tile), self._lanes, keep=False)
            size = tile * self._lanes
            inputs = [np.resize(array, (size, *array.shape[1:])) for array in most]
            outputs = [np.empty((size, *shape), dtype=np.float32) for shape in lanes.output_shapes]
            return lambda: lanes.run(inputs, outputs, 0, size)

        tile = fastest_tile(wave)
        together, alone = (
            [np.empty((len(most[0]), *shape), dtype=np.float32) for shape in self._single.output_shapes]
            for _ in range(2)
        )
        count = min(len(most[0]), tile * self._lanes)
        waves[tile].run(most, together, 0, count)
        self._single.run(most, alone, 0, count)
        single = seconds(lambda: self._single.run(most, alone, 0, 1))
        if not all(np.array_equal(a[:count], b[:count], equal_nan=True) for a, b in zip(together, alone, strict=True)):
            log.warning("one image and a tile of %d differ in their last bits here: single images fill a tile", tile)
            single = 1e6
        return Tiling(tile=tile, lanes=self._lanes, wave=seconds(wave(tile)), single=single)


class Lanes:
    """A compiled graph and ``lanes`` requests of it that run side by side."""

    def __init__(self, compiled: ov.CompiledModel, lanes: int) -> None:
        self._requests = [compiled.create_infer_request() for _ in range(lanes)]
        self.tile = int(compiled.input(0).get_shape()[0])
        self.input_shapes = [tuple(one.get_shape())[1:] for one in compiled.inputs]
        self.output_shapes = [tuple(one.get_shape())[1:] for one in compiled.outputs]

    def run(self, inputs: Sequence[NDArray[np.float32]], outputs: Arrays, start: int, stop: int) -> None:
        """Compute images ``start`` to ``stop - 1``; what a last tile lacks is whatever was there before."""
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
