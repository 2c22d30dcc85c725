"""Disk cache of compiled OpenVINO graphs. Free of torch."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from snf_models.disk import remove_leftovers, require_room, write_atomically
from snf_models.errors import StorageFull
from snf_models.threads import thread_count
from snf_runtime.parallelism import micro_batch_of
from snf_runtime.scoring.openvino_engine import (
    CompiledGraph,
    Graph,
    P,
    compile_program,
    compile_settings,
    core,
    ov,
)

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
"""Largest size of the cache in bytes; files that were not used for the longest time are removed first."""
DIGEST_BYTES = 32
ENDINGS = (".blob", ".density")  # endings of the names of these files: of compiled graphs, and of prepared densities
LEFTOVER_S = 3600.0  # age in seconds from which an unfinished file is that of a killed process


def read_cached(path: Path) -> bytes | None:
    """Return the content of a file and update its last use; None, and a log line, where it is missing or damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s of the cache cannot be read and is made again: %s", path.name, error.strerror)
        return None
    content = whole[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != whole[:DIGEST_BYTES]:
        log.warning("%s of the cache is damaged and is made again", path.name)
        return None
    note_use(path)
    return content


def note_use(path: Path) -> None:
    """Set the last use of a file: those unused for the longest time are deleted first."""
    try:
        os.utime(path)
    except OSError as error:  # such as a read-only folder, in which nothing is deleted either
        log.debug("the use of %s cannot be noted: %s", path.name, error.strerror)


def write_cached(path: Path, content: bytes) -> None:
    """Write a file, or log why not; delete the longest unused beyond 4 GiB, and leftovers of killed processes."""
    try:
        require_room(path.parent, len(content))
        write_atomically(path, hashlib.sha256(content).digest() + content)
        _prune(path.parent)
    except StorageFull as problem:
        log.warning("%s is not stored in the cache: %s", path.name, problem.detail)
    except OSError as error:
        log.warning("%s cannot be stored in the cache: %s", path.name, error.strerror)


def _prune(folder: Path) -> None:
    remove_leftovers(folder, LEFTOVER_S)
    files: list[tuple[float, int, Path]] = []
    for file in folder.iterdir():
        if file.suffix in ENDINGS:
            with suppress(FileNotFoundError):  # another process may delete it in the meantime
                state = file.stat()
                files.append((state.st_mtime, state.st_size, file))
    total = 0
    for _, size, file in sorted(files, reverse=True):
        total += size
        if total > MAX_BYTES:
            file.unlink(missing_ok=True)


class CompiledCache:
    """Cache of compiled graphs in a folder; damaged files, and those of another OpenVINO, are compiled again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def compile(self, model: ov.Model, parallel_requests: int, threads: int) -> CompiledGraph:
        """Return a compiled graph, cached or new; :meth:`keep` writes a new one to the folder."""
        settings = compile_settings(parallel_requests, threads)
        machine = core().get_property("CPU", "FULL_DEVICE_NAME")
        rest = repr((sorted(settings.items()), ov.get_version(), machine))
        name = hashlib.sha256((graph_digest(model) + rest).encode()).hexdigest()[:32]
        stored = self.stored(name, parallel_requests, threads)
        return stored or CompiledGraph(core().compile_model(model, "CPU", settings), parallel_requests, name)

    def keep(self, graph: CompiledGraph) -> None:
        """Write a compiled graph to the folder unless it is there."""
        if not graph.is_stored and graph.name is not None:
            write_cached(self.path(graph.name), graph.model.export_model().getvalue())

    def stored(self, name: str, parallel_requests: int, threads: int) -> CompiledGraph | None:
        """Return the compiled graph of a name, or None if its file is missing or unusable."""
        exported = read_cached(self.path(name))
        if exported is None:
            return None
        try:
            model = core().import_model(io.BytesIO(exported), "CPU", compile_settings(parallel_requests, threads))
        except RuntimeError as error:
            log.warning("the compiled flow %s cannot be used and is compiled again: %s", name, error)
            return None
        return CompiledGraph(model, parallel_requests, name, is_stored=True)

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.blob"


def open_program(
    make: Callable[..., P],
    graph: Callable[[int], Graph],
    pixels: int,
    threads: int | None,
    cache: Path | None,
) -> P:
    """Compile or load the program ``make`` of a graph for images of ``pixels`` pixels."""
    compiled = None if cache is None else CompiledCache(cache)
    return compile_program(make, graph, thread_count(threads), micro_batch_of(pixels), compiled)


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
