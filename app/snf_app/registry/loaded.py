from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from snf_models.registry.registry import ModelVersion

if TYPE_CHECKING:
    from snf_models.scorer import Scorer


class ModelState(StrEnum):
    """Loading state in this process; idle versions are not loaded, an unfit model has no live version."""

    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNFIT = "unfit"


@dataclass(frozen=True)
class Loaded:
    """A model version in memory; only the scoring thread may compute with its ``scorer``."""

    version: ModelVersion
    scorer: Scorer


@dataclass(eq=False)
class PoolEntry:
    """Entry of the pool of loaded models."""

    future: Future[Loaded] = field(default_factory=Future)  # the loaded version, or the error of its loading
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
