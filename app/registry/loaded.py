"""Classes for the loading of models: loading state, loaded version, pool entry and list entry."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from models.registry.version import ModelVersion

if TYPE_CHECKING:
    from models.scorer import Scorer


class ModelState(StrEnum):
    """Loading state of a model in this process: idle, loading, ready, failed or unfit.

    Idle versions are not loaded. A model is unfit if it has no live version.
    """

    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    UNFIT = "unfit"


@dataclass(frozen=True)
class Loaded:
    """A model version in memory, with the scorer that computes its log-likelihoods.

    Only the scoring thread may call methods of ``scorer`` that compute.
    """

    version: ModelVersion
    scorer: Scorer


@dataclass(eq=False)
class PoolEntry:
    """Entry of the pool of loaded models: state, last use and memory size of a model version.

    Attributes:
        future: The loaded version, or the error of its loading.
        born: Start of loading, on the monotonic clock.
        used: Last use, or end of loading, on the monotonic clock.
        size: Bytes that the loaded model takes in memory; 0 before it is loaded.
        reason: Reason of a failure.
        complete: Whether the parts of the model that its loading left for later are open.
    """

    future: Future[Loaded] = field(default_factory=Future)
    born: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)
    size: int = 0
    reason: str | None = None
    complete: bool = False

    @property
    def state(self) -> ModelState:
        """Loading state of the model version: loading, ready or failed."""
        if not self.future.done():
            return ModelState.LOADING
        return ModelState.READY if self.future.exception() is None else ModelState.FAILED


@dataclass(frozen=True)
class ModelListing:
    """One registered model in the list of models that ``ModelPool.listing`` returns.

    It has the versions, the aliases, and the live version with its loading state.

    ``live`` is None if its manifest cannot be read, and if all versions are unfit. Then ``newest`` is the newest one.
    """

    name: str
    versions: tuple[int, ...]
    aliases: dict[str, int]
    live: ModelVersion | None
    state: ModelState
    reason: str | None
    newest: ModelVersion | None = None
