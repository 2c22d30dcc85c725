"""Disk cache of compiled OpenVINO graphs; OpenVINO's own gives different graphs built in memory the same key."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from snf_models.disk import write_atomically
from snf_models.scoring.cache_files import read_cached, write_cached
from snf_models.threads import thread_count
from snf_runtime.scoring.engines.openvino_compile import Graph, compile_program
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.openvino_program import Compiled, Program, core
from snf_runtime.scoring.engines.tiles import Tiling, largest_tile

log = logging.getLogger(__name__)


class CompiledCache:
    """Cache of compiled graphs in a folder; damaged files, and those of another OpenVINO, are compiled again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digest: tuple[ov.Model, str] | None = None

    def compile(self, model: ov.Model, settings: dict[str, Any]) -> Compiled:
        """Return a compiled graph, cached or new; :meth:`Compiled.keep` writes a new one to the folder."""
        name = _key(self._digest_of(model), settings)
        stored = self.stored(name, settings)
        if stored is not None:
            return stored
        compiled = core().compile_model(model, "CPU", settings)
        return Compiled(compiled, name, partial(write_cached, self.path(name)))

    def stored(self, name: str, settings: dict[str, Any]) -> Compiled | None:
        """Return the graph that was compiled with ``settings``, or None if its file is missing or unusable."""
        exported = read_cached(self.path(name))
        if exported is None:
            return None
        try:
            return Compiled(core().import_model(io.BytesIO(exported), "CPU", settings), name)
        except RuntimeError as error:
            log.warning("the compiled flow %s cannot be used and is compiled again: %s", name, error)
            return None

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.blob"

    def tiling(self, model: ov.Model, lanes: int) -> Tiling | None:
        """Return the measured tile size for ``lanes`` threads; ``model`` is the graph for one image."""
        path = self._tiling_path(model, lanes)
        try:
            tiling = Tiling(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            log.warning("the measured tile size in %s cannot be read and is measured again: %s", path.name, error)
            return None
        return tiling if tiling.lanes == lanes else None

    def keep_tiling(self, model: ov.Model, tiling: Tiling) -> None:
        """Store a measured tile size; ``model`` is the graph for one image. A failed write is logged."""
        path = self._tiling_path(model, tiling.lanes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(asdict(tiling)).encode())
        except OSError as error:
            log.warning("the measured tile size cannot be stored in %s: %s", path.name, error.strerror)

    def _tiling_path(self, model: ov.Model, lanes: int) -> Path:
        return self._folder / f"{self._digest_of(model)}-{lanes}.json"

    def _digest_of(self, model: ov.Model) -> str:
        """Return the digest of a graph, kept for the next use: what is compiled has its tile looked up next."""
        if self._digest is None or self._digest[0] is not model:
            self._digest = model, graph_digest(model)
        return self._digest[1]


def open_program(graph: Callable[[int], Graph], pixels: int, threads: int | None, cache: Path | None) -> Program:
    """Compile or load the program of a graph for images of ``pixels`` pixels; without a cache no tile is measured."""
    found = None if cache is None else CompiledCache(cache)
    return compile_program(graph, thread_count(threads), largest_tile(pixels), found)


def graph_digest(model: ov.Model) -> str:
    """Return 32 hex digits of a SHA-256 over an OpenVINO graph's operations, attributes, connections and constants."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for number, node in enumerate(model.get_ordered_ops()):
        numbers[node.get_name()] = number
        sources = [(numbers[value.get_node().get_name()], value.get_index()) for value in node.input_values()]
        shapes = [(str(output.get_element_type()), str(output.get_partial_shape())) for output in node.outputs()]
        digest.update(repr((node.get_type_name(), sources, shapes)).encode())
        if isinstance(node, ov.op.Constant):
            digest.update(node.data.tobytes())
        else:
            digest.update(repr(sorted(node.get_attributes().items())).encode())
    return digest.hexdigest()[:32]


def _key(digest: str, settings: dict[str, Any]) -> str:
    machine = core().get_property("CPU", "FULL_DEVICE_NAME")
    rest = repr((sorted(settings.items()), ov.get_version(), machine))
    return hashlib.sha256((digest + rest).encode()).hexdigest()[:32]
