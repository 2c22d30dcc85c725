"""Cache file to open a model without its flows, named by a digest of what made it: model, software, processor."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Self

import snf_runtime
from snf_models.artifacts.manifest import Manifest
from snf_models.features.backbones import DEFAULT_FOLDER, BackboneStore
from snf_models.flows.architecture import features_of
from snf_models.scoring.cache_files import read_cached, write_cached
from snf_models.scoring.engines.compiled_cache import CompiledCache
from snf_models.scoring.opened_density import OpenedDensity
from snf_models.scoring.options import EngineOptions
from snf_models.scoring.prepared.open import Opener
from snf_models.scoring.prepared.record import PreparedRecord, record_of
from snf_models.threads import thread_count
from snf_runtime.scoring.engines.openvino_library import ov
from snf_runtime.scoring.engines.openvino_program import core

MODELS, RUNTIME = Path(__file__).parents[2], Path(snf_runtime.__file__).parent
SOURCES = (
    *(MODELS / name for name in ("bijections", "features", "flows", "loading", "scoring")),
    *(RUNTIME / name for name in ("exported", "scoring")),
)
"""Folders with the source code that makes graphs and layouts from weights."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedFile:
    """Cache file for one model, precision, number of threads, processor and software version."""

    path: Path
    manifest: Manifest
    options: EngineOptions

    @classmethod
    def of(cls, manifest: Manifest, options: EngineOptions) -> Self:
        """Return the file, which need not exist, for options with a cache and a precision."""
        assert options.cache is not None
        made_from = (manifest.model_dump_json(), options.precision, thread_count(options.threads), *_made_by())
        name = hashlib.sha256(repr(made_from).encode()).hexdigest()[:32]
        return cls(options.cache / f"{name}.density", manifest, options)

    def open(self) -> OpenedDensity | None:
        """Open the density, or log why not and return None; raise ``BackboneMissing`` if that is not installed."""
        content = read_cached(self.path)
        if content is None:
            return None
        if (features := features_of(self.manifest.architecture)) is not None:
            # Its weights are in the compiled graph. A model without its backbone is refused as ever.
            store = BackboneStore(self.options.backbones or DEFAULT_FOLDER)
            store.by_digest(features.backbone, features.backbone_sha256)
        try:
            return self._opener().open(PreparedRecord.of_json(content))
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            self.discard(str(error))
            return None

    def keep(self, opened: OpenedDensity) -> None:
        """Write how to reopen a density, unless torch computes a part or a graph is not in the cache."""
        record = record_of(opened)
        if record is None:
            return
        programs = [part.program for part in (record.pixels, record.features) if part is not None]
        paths = [self._compiled().path(name) for program in programs for name in (program.single, program.wave)]
        try:
            stored = all(path.is_file() for path in paths)
        except OSError as error:
            log.warning("the prepared density %s cannot be stored: %s", self.path.name, error.strerror)
            return
        # Graphs that could not be stored, which the log says, are compiled again anyway.
        if stored:
            write_cached(self.path, record.to_json())

    def discard(self, reason: str) -> None:
        """Delete the file and log why: the density must be opened from its flows."""
        log.warning("the prepared density %s is not used and is made again: %s", self.path.name, reason)
        self._remove()

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the prepared density %s cannot be deleted: %s", self.path.name, error.strerror)

    def _opener(self) -> Opener:
        assert self.options.precision is not None
        threads = thread_count(self.options.threads)
        return Opener(self.manifest, self.options.precision, threads, self._compiled(), self._remove)

    def _compiled(self) -> CompiledCache:
        assert self.options.cache is not None
        return CompiledCache(self.options.cache)


@cache
def _made_by() -> tuple[str, ...]:
    """Return what else graphs depend on: versions of libraries, the processor, and our own source code."""
    libraries = version("torch"), version("numpy"), ov.get_version()
    return (*libraries, *_processor(), os.environ.get("ATEN_CPU_CAPABILITY", ""), CODE)


def _processor() -> tuple[str, ...]:
    """Return the name of the processor and its instructions: virtual machines give different ones the same name."""
    described = (str(core().get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return (*described, flags)


def code_digest() -> str:
    """Return the SHA-256 of the source code that makes graphs and layouts from weights."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted(folder.rglob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


CODE = code_digest()
"""That of the code of this process, which an update of the files does not change."""
