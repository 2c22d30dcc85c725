"""Engines that run flows as compiled OpenVINO graphs on CPUs, in batches of a fixed size."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op
from openvino.frontend import FrontEndManager

from snf_runtime.images.preprocessing import Pixels
from snf_runtime.parallelism import BatchPlan
from snf_runtime.scoring.density import Latents
from snf_runtime.scoring.layout import FlowLayout, GraphPart, Precision

__all__ = ["FrontEndManager", "op", "ov"]

log = logging.getLogger(__name__)

Arrays = list[NDArray[np.float32]]
Inputs = Sequence[NDArray[np.float32] | NDArray[np.uint8]]
Outputs = Sequence[tuple[GraphPart, int]]
"""Kind, such as latents, and level of each output of a graph, in order."""
FEATURE_OUTPUTS: list[tuple[GraphPart, int]] = [("places", 0), ("pooled", 0)]


@cache
def core() -> ov.Core:
    """Return the OpenVINO runtime that all code of this process shares."""
    return ov.Core()


class CompiledGraph:
    """A compiled graph that computes micro-batches of images by several parallel requests.

    ``name`` is that of its file in a cache; ``is_stored`` says whether the file is there already.
    """

    def __init__(
        self, model: ov.CompiledModel, parallel_requests: int, name: str | None = None, *, is_stored: bool = False
    ) -> None:
        self.model = model
        self.parallel_requests = parallel_requests
        self.name = name
        self.is_stored = is_stored
        self._requests = [model.create_infer_request() for _ in range(parallel_requests)]
        self.micro_batch = int(model.input(0).get_shape()[0])
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
            for number, first in enumerate(range(start, stop, self.micro_batch)):
                place = number % len(self._requests)
                self._collect(place, running, outputs)
                last = min(first + self.micro_batch, stop)
                for index, values in enumerate(inputs):
                    self._requests[place].get_input_tensor(index).data[: last - first] = values[first:last]
                self._requests[place].start_async()
                running[place] = first, last
        finally:
            for place in range(len(self._requests)):
                self._collect(place, running, outputs)

    def _collect(self, place: int, running: list[tuple[int, int] | None], outputs: Arrays) -> None:
        rows, running[place] = running[place], None
        if rows is None:
            return
        request = self._requests[place]
        request.wait()
        first, last = rows
        for index, values in enumerate(outputs):
            values[first:last] = request.get_output_tensor(index).data[: last - first]


class Program:
    """Engine of a graph, which runs images one by one or many in parallel, with the same bits.

    ``parallel`` opens the graph for many images when it is first needed, or returns None where that fails.
    """

    name = "openvino"
    precision: Precision = "float32"

    def __init__(
        self,
        outputs: Outputs,
        plan: BatchPlan,
        single: CompiledGraph,
        parallel: Callable[[], CompiledGraph | None],
    ) -> None:
        self.outputs = outputs
        self.plan = plan
        self.micro_batch = plan.micro_batch
        self.threads = plan.parallel_requests
        self.single = single
        self._opening = threading.Lock()
        self._open_parallel: Callable[[], CompiledGraph | None] | None = parallel
        self._parallel: CompiledGraph | None = None

    @property
    def parallel(self) -> CompiledGraph | None:
        """The graph that runs a micro-batch on every thread, opened by the first call; None where that fails."""
        with self._opening:
            if self._open_parallel is not None:
                self._parallel, self._open_parallel = self._open_parallel(), None
            return self._parallel

    def run(self, inputs: Inputs) -> Arrays:
        """Run the compiled graph on any number of images and return its outputs, float32 ``(images, ...)`` each."""
        images = len(inputs[0])
        outputs = self.single.outputs(images)
        together = min(images, self.plan.parallel_runs(images) * self.micro_batch * self.threads)
        parallel = self.parallel if together else None
        if parallel is None:
            together = 0
        else:
            parallel.run(inputs, outputs, 0, together)
        self.single.run(inputs, outputs, together, images)
        return outputs


class OpenVINOFlow(Program):
    """Engine that runs a flow over pixels: in float32, 1x1 convolutions in ``precision``, log-det sums in float64."""

    def __init__(self, layout: FlowLayout, *program: Any) -> None:  # of the arguments of Program
        super().__init__(*program)
        self._layout = layout
        self.precision = layout.precision

    def forward(self, y: NDArray[np.float64]) -> Latents:
        parts = dict(zip(self.outputs, self.run([y.astype(np.float32)]), strict=True))
        scales, log_dets, prior_log_dets, errors = [], [], [], []
        for index, level in enumerate(self._layout.levels):
            if ("latent", index) in parts:
                scales.append(parts["latent", index].astype(np.float64))
            slopes = parts.get(("log-slopes", index))
            prior = parts.get(("prior-log-slopes", index))
            nothing = np.zeros((len(y), *level.size))
            log_dets.append(nothing if slopes is None else slopes.sum(1, dtype=np.float64))
            prior_log_dets.append(nothing if prior is None else prior.sum(1, dtype=np.float64))
            ratio = parts.get(("reconstruction-errors", index), np.zeros((len(y), 0), dtype=np.float32))
            errors.append(ratio.astype(np.float64) * np.square(level.reconstruction_sizes))
        return Latents(scales, log_dets, prior_log_dets, errors)


class OpenVINOFeatures(Program):
    """Engine of a backbone and the flows over its features, in float32 from 8-bit pixels to ||z||²."""

    def squares(self, images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ||z||² at places ``(N, fits, rows, columns)`` and of pooled features ``(N, fits, groups)``."""
        places, pooled = self.run([images])
        return places.astype(np.float64), pooled.astype(np.float64)


P = TypeVar("P", bound=Program)


@dataclass
class Graph:
    """An OpenVINO graph, not compiled, for a fixed number of images, with the kind and level of each output."""

    model: ov.Model
    outputs: Outputs


class ProgramCache(Protocol):
    """Cache of compiled graphs."""

    def compile(self, model: ov.Model, parallel_requests: int, threads: int) -> CompiledGraph:
        """Compile a graph for the CPU, or load the compiled graph from the cache."""
        ...

    def keep(self, graph: CompiledGraph) -> None:
        """Store a compiled graph unless it is stored."""
        ...


def compile_settings(parallel_requests: int, threads: int) -> dict[str, Any]:
    """Return OpenVINO's settings to run ``parallel_requests`` batches at once on ``threads`` threads."""
    return {
        "NUM_STREAMS": parallel_requests,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        # Pinned threads would wait for other processes on their core.
        "ENABLE_CPU_PINNING": False,
    }


def compile_program(
    make: Callable[..., P],
    graph: Callable[[int], Graph],
    threads: int,
    micro_batch: int,
    cache: ProgramCache | None = None,
) -> P:
    """Compile the program ``make`` of a graph for ``micro_batch`` images on each of ``threads`` threads.

    Where an image has other bits alone than among many, single images are computed in full batches.
    """
    one = graph(1)
    single = _compiled(one.model, 1, threads, cache)
    alone = micro_batch == threads == 1
    parallel = single if alone else _compiled(graph(micro_batch).model, threads, threads, cache)
    plan = BatchPlan(micro_batch, threads, _agree(single, parallel))
    if cache is not None:
        for compiled in (single, parallel):
            cache.keep(compiled)
    return make(one.outputs, plan, single, lambda: parallel)


def _compiled(model: ov.Model, parallel_requests: int, threads: int, cache: ProgramCache | None) -> CompiledGraph:
    if cache is not None:
        return cache.compile(model, parallel_requests, threads)
    settings = compile_settings(parallel_requests, threads)
    return CompiledGraph(core().compile_model(model, "CPU", settings), parallel_requests)


def _agree(single: CompiledGraph, parallel: CompiledGraph) -> bool:
    """Return whether images get the same bits in a full micro-batch and alone."""
    results = []
    for graph in (parallel, single):
        run, outputs = graph.on_noise(parallel.micro_batch * parallel.parallel_requests)
        run()
        results.append(outputs)
    same = all(np.array_equal(together, alone, equal_nan=True) for together, alone in zip(*results, strict=True))
    if not same:
        log.warning(
            "a single image and a batch of %d differ in their last bits: single images are computed in full batches",
            parallel.micro_batch,
        )
    return same
