"""Models that the service has loaded: their states, and the memory that they take."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from snf_models.registry.registry import ModelVersion
from snf_worker.runtime.machine import memory_of_this_machine
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.scorer import Scorer


MEMORY_SHARE = 0.25
"""Share of the memory of this machine, or of its container, that loaded models may take."""
DEFAULT_LIMIT = 4 * 2**30
"""Limit in bytes where the memory of the machine is not known."""
PER_FILE_BYTE = 16
"""Bytes in memory for each byte of a model's files; loads of the shipped models on Linux give 15 to 25."""
MAX_PER_FILE_BYTE, MAX_BESIDE = 32, 32 * 2**20
"""Most bytes in memory for each byte of a model's files, and beside them: what grows by more is other work."""


class LoadedMemory:
    """Meter of a load by the growth of the process, bounded by the size of the files: other work grows it too."""

    def __init__(self, statm: Path = Path("/proc/self/statm")) -> None:
        self._statm = statm
        self._lock = threading.Lock()
        self._counted = 0

    def begin(self) -> int:
        """Return the bytes of this process before a load; 0 where the system does not tell them."""
        with self._lock:
            before = self._resident()
            # Less than before: models have been dropped.
            self._counted = min(self._counted, before)
            return before

    def end(self, before: int, file_bytes: int) -> int:
        """Return the bytes of a load since ``begin``, within bounds by the size of the files."""
        with self._lock:
            after = self._resident()
            if not before or not after:
                return PER_FILE_BYTE * file_bytes
            return max(file_bytes, self._growth(before, after, file_bytes))

    def end_of_more(self, before: int, file_bytes: int) -> int:
        """Return the bytes of a further part; 0 if unknown, as ``end`` estimates the whole model."""
        with self._lock:
            after = self._resident()
            return max(0, self._growth(before, after, file_bytes)) if before and after else 0

    def _growth(self, before: int, after: int, file_bytes: int) -> int:
        # Another load that ended meanwhile has counted what the process had grown by then.
        growth = after - max(before, self._counted)
        self._counted = after
        return min(growth, MAX_PER_FILE_BYTE * file_bytes + MAX_BESIDE)

    def _resident(self) -> int:
        try:
            pages = int(self._statm.read_text(encoding="ascii").split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")


def memory_limit(settings: Settings) -> int:
    """Return the bytes of all loaded models: the setting, a quarter of the memory, or 4 GiB if unknown."""
    if settings.model_memory_bytes is not None:
        return settings.model_memory_bytes
    memory = memory_of_this_machine()
    return DEFAULT_LIMIT if memory is None else int(MEMORY_SHARE * memory)


class ModelState(StrEnum):
    """Loading state in this process; idle versions are not loaded, an unfit model has no live version."""

    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNFIT = "unfit"


@dataclass(frozen=True)
class ServedModel:
    """A model version in memory; only the scoring thread may compute with its ``scorer``."""

    version: ModelVersion
    scorer: Scorer


@dataclass(eq=False)
class PoolEntry:
    """Entry of the pool of loaded models."""

    future: Future[ServedModel] = field(default_factory=Future)  # the loaded version, or the error of its loading
    born: float = field(default_factory=time.monotonic)  # start of loading, monotonic
    used: float = field(default_factory=time.monotonic)  # last use or end of loading, monotonic
    size: int = 0  # bytes in memory; 0 before it is loaded
    reason: str | None = None  # of a failure
    complete: bool = False  # whether parts that loading left for later are open

    @property
    def state(self) -> ModelState:
        if not self.future.done():
            return ModelState.LOADING
        return ModelState.READY if self.future.exception() is None else ModelState.FAILED


@dataclass(frozen=True)
class ModelListing:
    """A registered model. While ``live`` is unreadable or all versions are unfit, it is None: see ``newest``."""

    name: str
    versions: tuple[int, ...]
    aliases: dict[str, int]
    live: ModelVersion | None
    state: ModelState
    reason: str | None
    newest: ModelVersion | None = None
