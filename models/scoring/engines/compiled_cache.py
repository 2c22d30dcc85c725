"""Cache of compiled OpenVINO graphs on disk, by their content, so that a second start compiles nothing.

OpenVINO's own cache is not used: for graphs that are built in memory, different graphs have the same key.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.atomic_files import write_atomically
from models.disk_space import require_room
from models.errors import StorageFull
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.openvino_program import Compiled, Graph, Program, core
from snf_runtime.scoring.engines.tiles import Tiling

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
"""Largest size of the cache in bytes; graphs that were not used for the longest time are removed first."""
DIGEST_BYTES = 32


class CompiledCache:
    """Disk cache of compiled OpenVINO graphs, so that a program compiles each graph only at its first start.

    A file holds an exported graph after its SHA-256. Damaged files, and files of
    another version of OpenVINO, are compiled again.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def compile(self, model: ov.Model, settings: dict[str, Any]) -> Compiled:
        """Return a graph compiled for the CPU, read from the cache folder if the same graph was compiled before.

        A new one is written to the folder by :meth:`Compiled.keep` only. Damaged files are logged and not used.
        """
        path = self._folder / f"{_key(model, settings)}.blob"
        stored = self._load(path, settings)
        if stored is not None:
            return Compiled(stored)
        return Compiled(core().compile_model(model, "CPU", settings), partial(_store, path))

    def tiling(self, model: ov.Model, lanes: int) -> Tiling | None:
        """Return the tile size that was measured for a graph of one image; None without one for ``lanes`` threads.

        A damaged file is logged and not used.
        """
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
        """Write the tile size that was measured for a graph of one image. A failed write is logged and ignored."""
        path = self._tiling_path(model, tiling.lanes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(asdict(tiling)).encode())
        except OSError as error:
            log.warning("the measured tile size cannot be stored in %s: %s", path.name, error.strerror)

    def _tiling_path(self, model: ov.Model, lanes: int) -> Path:
        return self._folder / f"{graph_digest(model)}-{lanes}.json"

    def _load(self, path: Path, settings: dict[str, Any]) -> ov.CompiledModel | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the compiled flow %s cannot be read: %s", path.name, error.strerror)
            return None
        digest, exported = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(exported).digest() != digest:
            log.warning("the compiled flow %s is damaged and is compiled again", path.name)
            return None
        try:
            stored = core().import_model(io.BytesIO(exported), "CPU", settings)
            os.utime(path)
        except (RuntimeError, OSError) as error:
            log.warning("the compiled flow %s cannot be used and is compiled again: %s", path.name, error)
            return None
        return stored


def open_program(graph: Callable[[int], Graph], threads: int | None, cache: Path | None) -> Program:
    """Return the program of a graph.

    Args:
        graph: A function that returns the graph for a number of images.
        threads: Threads on the CPU; None for the number that torch uses.
        cache: Folder for compiled graphs and measured tile sizes, or None.
    """
    return Program(graph, threads or torch.get_num_threads(), None if cache is None else CompiledCache(cache))


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


def _key(model: ov.Model, settings: dict[str, Any]) -> str:
    machine = core().get_property("CPU", "FULL_DEVICE_NAME")
    rest = repr((sorted(settings.items()), ov.get_version(), machine))
    return hashlib.sha256((graph_digest(model) + rest).encode()).hexdigest()[:32]


def _store(path: Path, exported: bytes) -> None:
    """Write a compiled graph to its file. A failed write, or no room, is logged and ignored.

    Beyond 4 GiB in the folder, the files that were unused for the longest time are deleted.
    """
    try:
        require_room(path.parent, len(exported))
        write_atomically(path, hashlib.sha256(exported).digest() + exported)
        _prune(path.parent)
    except StorageFull as problem:
        log.warning("the compiled flow is not stored: %s", problem.detail)
    except OSError as error:
        log.warning("the compiled flow cannot be stored: %s", error.strerror)


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.blob"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MAX_BYTES:
            file.unlink(missing_ok=True)
