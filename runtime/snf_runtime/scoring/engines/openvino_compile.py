"""Compilation of OpenVINO graphs, and measurement of the best number of images per run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.openvino_program import Compiled, Lanes, Outputs, Program, core
from snf_runtime.scoring.engines.tiles import CANDIDATES, DEFAULT_TILE, Tiling, fastest_tile, seconds, unmeasured

log = logging.getLogger(__name__)

NEVER = 1e6
"""Seconds for a single image that prevent single images from being computed alone."""


@dataclass
class Graph:
    """An OpenVINO graph, not compiled, for a fixed number of images, with the kind and level of each output."""

    model: ov.Model
    outputs: Outputs


class ProgramCache(Protocol):
    """Cache of compiled graphs and their measured tile sizes (images for each thread and run)."""

    def compile(self, model: ov.Model, settings: dict[str, Any]) -> Compiled:
        """Compile a graph for the CPU, or load the compiled graph from the cache."""
        ...

    def tiling(self, model: ov.Model, lanes: int) -> Tiling | None:
        """Return the stored measurement for ``lanes`` threads; ``model`` is the graph for one image."""
        ...

    def keep_tiling(self, model: ov.Model, tiling: Tiling) -> None:
        """Store a measurement; ``model`` is the graph for one image."""
        ...


def compile_program(
    graph: Callable[[int], Graph], threads: int, largest: int, cache: ProgramCache | None = None
) -> Program:
    """Compile a graph, with a tile size measured if there is a cache; without equal bits only waves are used."""
    compiler = _Compiler(threads, cache)
    one = graph(1)
    single = compiler.lanes(one, 1)
    tiling = None if cache is None else cache.tiling(one.model, threads)
    if tiling is not None and tiling.tile > largest:
        tiling = None
    if cache is not None and tiling is None:
        tiling, wave = _measured(graph, compiler, single, largest)
        cache.keep_tiling(one.model, tiling)
    else:
        unknown = tiling is None
        tiling = tiling or unmeasured(threads, min(DEFAULT_TILE, largest))
        alone = tiling.tile == threads == 1
        wave = single if alone else compiler.lanes(graph(tiling.tile), threads)
        if unknown and not _agree(single, wave):
            tiling = replace(tiling, single=NEVER)
    for lanes in (single, wave):
        lanes.compiled.keep()
    return Program(one.outputs, tiling, single, lambda: wave)


def compile_settings(lanes: int, threads: int) -> dict[str, Any]:
    """Return OpenVINO's settings to run ``lanes`` batches at once on ``threads`` threads."""
    return {
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        # Pinned threads would wait for other processes on their core.
        "ENABLE_CPU_PINNING": False,
    }


@dataclass(frozen=True)
class _Compiler:
    threads: int
    cache: ProgramCache | None

    def lanes(self, graph: Graph, lanes: int) -> Lanes:
        settings = compile_settings(lanes, self.threads)
        if self.cache is not None:
            return Lanes(self.cache.compile(graph.model, settings), lanes)
        return Lanes(Compiled(core().compile_model(graph.model, "CPU", settings)), lanes)


def _measured(graph: Callable[[int], Graph], compiler: _Compiler, single: Lanes, largest: int) -> tuple[Tiling, Lanes]:
    waves: dict[int, Lanes] = {}

    def wave(tile: int) -> Callable[[], object]:
        # A tile of one image on one thread is the graph for an image alone: it need not be compiled twice.
        alone = tile == compiler.threads == 1
        waves[tile] = single if alone else compiler.lanes(graph(tile), compiler.threads)
        return waves[tile].on_noise(tile * compiler.threads)[0]

    tile = fastest_tile(wave, [tile for tile in CANDIDATES if tile <= largest])
    images = tile * compiler.threads
    tiling = Tiling(
        tile=tile,
        lanes=compiler.threads,
        wave=seconds(waves[tile].on_noise(images)[0]),
        single=seconds(single.on_noise(images)[0]) / images,
    )
    return tiling if _agree(single, waves[tile]) else replace(tiling, single=NEVER), waves[tile]


def _agree(single: Lanes, wave: Lanes) -> bool:
    """Return whether images get the same bits in a full tile and alone."""
    results = []
    for lanes in (wave, single):
        run, outputs = lanes.on_noise(wave.tile * wave.count)
        run()
        results.append(outputs)
    same = all(np.array_equal(together, alone, equal_nan=True) for together, alone in zip(*results, strict=True))
    if not same:
        log.warning(
            "a single image and a tile of %d differ in their last bits: single images are computed in full tiles",
            wave.tile,
        )
    return same
