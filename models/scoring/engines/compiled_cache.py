"""Compiled graphs on disk, found by their content: a second start compiles nothing.

OpenVINO's own cache is not used: for graphs that come from no file its keys do not tell one graph from another.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from models.atomic_files import write_atomically
from models.scoring.engines.openvino_library import ov

log = logging.getLogger(__name__)

MOST_BYTES = 4 * 2**30
"""What all compiled graphs may take; those that were not used for longest go first."""
DIGEST_BYTES = 32


@cache
def core() -> ov.Core:
    """Return the one runtime of this process."""
    return ov.Core()


@dataclass(frozen=True)
class Compiled:
    """A compiled graph; ``path``: the file that it is not in yet."""

    model: ov.CompiledModel
    path: Path | None = None

    def keep(self) -> None:
        """Write it to its file, where it has one that it does not come from."""
        if self.path is None:
            return
        exported = self.model.export_model().getvalue()
        try:
            write_atomically(self.path, hashlib.sha256(exported).digest() + exported)
            _prune(self.path.parent)
        except OSError as error:
            log.warning("the compiled flow cannot be kept: %s", error.strerror)


class CompiledCache:
    """Compiles graphs, and keeps them in ``folder`` where there is one.

    A file is its own SHA-256 and then what OpenVINO exports. One that is damaged or of another version is compiled
    again.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def compile(self, model: ov.Model, settings: dict[str, Any]) -> Compiled:
        """Return ``model`` compiled with these settings of the CPU, from the folder where it is there."""
        path = None if self._folder is None else self._folder / f"{_key(model, settings)}.blob"
        found = None if path is None else self._load(path, settings)
        if found is not None:
            return Compiled(found)
        return Compiled(core().compile_model(model, "CPU", settings), path)

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
            log.warning("the compiled flow %s is damaged and is made again", path.name)
            return None
        try:
            found = core().import_model(io.BytesIO(exported), "CPU", settings)
            os.utime(path)
        except (RuntimeError, OSError) as error:
            log.warning("the compiled flow %s cannot be used and is made again: %s", path.name, error)
            return None
        return found


def graph_digest(model: ov.Model) -> str:
    """Return a digest of all that a graph computes: operations, attributes, connections, constants."""
    found = hashlib.sha256()
    numbers: dict[str, int] = {}
    for number, node in enumerate(model.get_ordered_ops()):
        numbers[node.get_name()] = number
        sources = [(numbers[one.get_node().get_name()], one.get_index()) for one in node.input_values()]
        shapes = [(str(one.get_element_type()), str(one.get_partial_shape())) for one in node.outputs()]
        found.update(repr((node.get_type_name(), sources, shapes)).encode())
        if isinstance(node, ov.op.Constant):
            found.update(node.data.tobytes())
        else:
            found.update(repr(sorted(node.get_attributes().items())).encode())
    return found.hexdigest()[:32]


def _key(model: ov.Model, settings: dict[str, Any]) -> str:
    machine = core().get_property("CPU", "FULL_DEVICE_NAME")
    rest = repr((sorted(settings.items()), ov.get_version(), machine))
    return hashlib.sha256((graph_digest(model) + rest).encode()).hexdigest()[:32]


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.blob"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MOST_BYTES:
            file.unlink(missing_ok=True)
