"""The pool of models that the service has loaded, which follows the registry, and the memory that they take."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from snf_app.http.errors import Problem, draining
from snf_models.disk import folder_bytes
from snf_models.errors import ModelNotFound, ModelsError, NoLiveVersion
from snf_models.naming import ModelRef
from snf_models.registry.calibrations import OWN, gradient_warning
from snf_models.registry.registry import ModelVersion, Registry
from snf_models.scoring import EngineOptions
from snf_worker.runtime.machine import memory_of_this_machine
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_models.scorer import Scorer


MEMORY_SHARE = 0.25  # share of the memory of this machine, or of its container, that loaded models may take
DEFAULT_LIMIT = 4 * 2**30  # limit in bytes where the memory of the machine is not known
PER_FILE_BYTE = 20
"""Bytes in memory for each byte of a model's files; loads of the shipped models on Linux give 15 to 25."""


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
    warning: str | None = None  # about its calibration


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


T = TypeVar("T")

COMPUTE_SHARE = 0.02  # share of the time that is spent on computing a result, however many callers ask for it
MAX_AGE_S = 5.0  # longest use of a result in seconds, even if computing it takes a larger share of the time


class TtlCache(Generic[T]):
    """Cache of a slow result for 50 times its duration, 5 s at most: callers without a key cannot slow down scoring."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute = compute
        self._result: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """Return the cached result, or compute it; on one event loop only."""
        if self._result is None or (self._result.done() and time.monotonic() >= self._until):
            self._result = asyncio.create_task(asyncio.to_thread(self._computed))
        # Shielded: a caller that leaves must not cancel what others wait for.
        return await asyncio.shield(self._result)

    def _computed(self) -> T:
        # In the thread: the wait for a free one does not make a result expensive.
        began = time.monotonic()
        try:
            return self._compute()
        finally:
            ended = time.monotonic()
            self._until = ended + min((ended - began) / COMPUTE_SHARE, MAX_AGE_S)


POLL_S = 1.0
RETRY_S = 30.0  # seconds after which a request tries again to load a failed model
LOADERS = 2  # versions that are loaded at once; most of the work is outside of Python

log = logging.getLogger(__name__)


class ModelPool:
    """Cache of models of ``limit`` bytes; ``acquire`` and ``recent_listing`` run on the loop, others in any thread."""

    def __init__(self, registry: Registry, options: EngineOptions, limit: int) -> None:
        self._registry = registry
        self._options = options
        self._limit = limit
        self._recent = TtlCache(self.listing)
        self._lock = threading.Lock()
        self._entries: dict[ModelVersion, PoolEntry] = {}
        self._refs: dict[str, ModelVersion] = {}
        self._next: ModelVersion | None = None
        self._loading_trained: dict[int, asyncio.Task[None]] = {}
        self._stop = threading.Event()
        self._started = threading.Event()
        self._loader = ThreadPoolExecutor(LOADERS, thread_name_prefix="loading")
        self._watcher = threading.Thread(target=self._watch, name="registry", daemon=True)

    @property
    def started(self) -> bool:
        """Whether the loading of all models that ship with the product has ended, or failed."""
        return self._started.is_set()

    def start(self) -> None:
        """Start a thread that loads the built-in models, then checks the registry for changes every second."""
        self._watcher.start()

    def close(self) -> None:
        """Stop checking the registry, cancel model loads not yet begun, and wait for those in progress."""
        self._stop.set()
        self._loader.shutdown(cancel_futures=True)
        with self._lock:
            unfinished = [entry for entry in self._entries.values() if not entry.future.done()]
        for entry in unfinished:
            entry.future.set_exception(draining())
        if self._watcher.is_alive():
            self._watcher.join()

    async def acquire(self, ref: str) -> ServedModel:
        """Return a model, loaded if need be; raise ``ModelNotFound``, ``ModelsError`` or ``Problem``."""
        version = self._refs.get(ref)
        entry = self._entries.get(version) if version else None
        if entry is None or entry.state is ModelState.FAILED:
            entry = await asyncio.to_thread(self._open, ref)
        entry.used = time.monotonic()
        if entry.future.done():
            return entry.future.result()
        # Shielded: a caller's deadline must not cancel the load that others wait for.
        return await asyncio.shield(asyncio.wrap_future(entry.future))

    async def load_trained(self, loaded: ServedModel) -> None:
        """Load the PyTorch flow, for samples and audits; raise ``ModelNotFound`` or ``ArtifactError``."""
        if loaded.scorer.is_flow_loaded:
            return
        # One thread loads for all callers, and goes on when they have given up.
        key = id(loaded.scorer)
        task = self._loading_trained.get(key)
        if task is None:
            task = self._loading_trained[key] = asyncio.create_task(asyncio.to_thread(self._load_trained, loaded))
            task.add_done_callback(lambda _: self._loading_trained.pop(key, None))
        await asyncio.shield(task)

    def find(self, ref: str) -> tuple[ModelVersion, PoolEntry | None]:
        """Return the version that ``ref`` names on disk, and its entry in this pool, if any."""
        version = self._registry.resolve(ref)
        return version, self._entries.get(version)

    def listing(self, names: Iterable[str] | None = None) -> list[ModelListing]:
        """Return registered models, by default all, sorted by name, with their loading states; reads the disk."""
        return [self._listed(name) for name in sorted(self._registry.names() if names is None else names)]

    async def recent_listing(self) -> list[ModelListing]:
        """Return all models from a cache that all callers share, at most a few seconds old."""
        return await self._recent.get()

    def registered(self) -> set[tuple[str, int]]:
        """Return a set of ``(name, version number)`` of all model versions in the registry, as read from disk."""
        return {(name, version) for name in self._registry.names() for version in self._registry.versions(name)}

    def states(self) -> dict[ModelVersion, tuple[ModelState, str | None]]:
        """Return the loading state of each version in the pool, and the reason of a failure."""
        with self._lock:
            entries = dict(self._entries)
        return {version: (entry.state, entry.reason) for version, entry in entries.items()}

    def _listed(self, name: str) -> ModelListing:
        versions: tuple[int, ...] = ()
        aliases: dict[str, int] = {}
        try:
            versions = tuple(self._registry.versions(name))
            aliases = dict(self._registry.aliases(name))
            live = self._registry.resolve(name)
            _ = live.manifest
        except NoLiveVersion as error:
            newest = self._registry.with_calibration(name, versions[-1], OWN)
            return ModelListing(name, versions, aliases, None, ModelState.UNFIT, error.detail, newest)
        # A damaged model must not hide the others.
        except (ModelsError, OSError) as error:
            return ModelListing(name, versions, aliases, None, ModelState.FAILED, reason_of(error))
        entry = self._entries.get(live)
        state = entry.state if entry else ModelState.IDLE
        return ModelListing(name, versions, aliases, live, state, entry.reason if entry else None)

    def _open(self, ref: str) -> PoolEntry:
        version = self._registry.resolve(ref)
        entry = self._entry(version)
        self._refs[ref] = version
        return entry

    def _entry(self, version: ModelVersion) -> PoolEntry:
        with self._lock:
            entry = self._entries.get(version)
            stale = entry is not None and entry.state is ModelState.FAILED and time.monotonic() - entry.born > RETRY_S
            if entry is None or stale:
                entry = self._entries[version] = PoolEntry()
                self._loader.submit(self._load, version, entry)
            return entry

    def _load(self, version: ModelVersion, entry: PoolEntry) -> None:
        name = f"{version.name}:{version.version}"
        if version.calibration:
            name += f" with calibration {version.calibration}"
        began = time.monotonic()
        try:
            from snf_models.scorer import load_model  # noqa: PLC0415 - takes a while, and the loop must answer meanwhile
            from snf_models.threads import one_blas_thread  # noqa: PLC0415 - as above

            one_blas_thread()
            scorer = load_model(version.path, version.calibration_path, self._options)
            loaded = ServedModel(version, scorer, gradient_warning(version.calibration_path or version.path))
            entry.size = PER_FILE_BYTE * folder_bytes(version.path)
        # Any failure to load is a state of the model, not of the service.
        except Exception as error:
            # While a version is removed, its files disappear one after the other.
            error = self._removal(version) or error
            entry.reason = reason_of(error)
            known = isinstance(error, ModelsError)
            log.error("model %s cannot be loaded: %s", name, entry.reason, exc_info=not known)
            entry.future.set_exception(error if known else _failed(name))
            return
        log.info("model %s loaded in %.2f s, %.0f MB", name, time.monotonic() - began, entry.size / 1e6)
        entry.used = time.monotonic()
        entry.future.set_result(loaded)
        self._forget(version)

    def _load_trained(self, loaded: ServedModel) -> None:
        import torch  # noqa: PLC0415 - takes a second, and scoring does without

        from snf_models.threads import one_blas_thread  # noqa: PLC0415 - not needed before the first load

        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        try:
            _ = loaded.scorer.trained
        except Exception as error:
            raise self._removal(loaded.version) or error from None
        one_blas_thread()  # again: SciPy has loaded a BLAS of its own

    def _open_parallel(self) -> None:
        """Open what models need for many images at once, which their loading left for later, while no model loads."""
        with self._lock:
            entries = list(self._entries.values())
        if any(entry.state is ModelState.LOADING for entry in entries):
            return
        for entry in entries:
            if entry.state is ModelState.READY and not entry.complete and not self._stop.is_set():
                entry.complete = True
                loaded = entry.future.result()
                try:
                    loaded.scorer.open_parallel_graphs()
                # The first batch opens it, and answers with its error.
                except Exception:
                    log.exception("graphs of %s for many images could not be opened", loaded.version.name)

    def _removal(self, version: ModelVersion) -> ModelNotFound | None:
        """Return the error of a version that has been removed; None where it exists."""
        try:
            self._registry.locate(ModelRef(version.name, version.version))
        except ModelNotFound as error:
            return error
        return None

    def _forget(self, loaded: ModelVersion) -> None:
        """Drop the least recently used models past the limit, but never ``loaded`` or the next one of a reference."""
        with self._lock:
            ready = [version for version, entry in self._entries.items() if entry.state is ModelState.READY]
            ready.sort(key=lambda version: self._entries[version].used)
            over = sum(self._entries[version].size for version in ready) - self._limit
            for version in ready:
                if over <= 0:
                    break
                if version in (loaded, self._next):
                    continue
                over -= self._entries.pop(version).size
                log.info(
                    "model %s:%d is dropped: loaded models take more than %.0f MB",
                    version.name, version.version, self._limit / 1e6,
                )  # fmt: skip

    def _watch(self) -> None:
        try:
            shipped = {version.name: version for version in self._live_versions() if version.read_only}
            self._refs.update(shipped)
            for entry in [self._entry(version) for version in shipped.values()]:
                entry.future.exception()
        except Exception:
            log.exception("the shipped models could not be loaded")
        finally:
            self._started.set()
        while not self._stop.wait(POLL_S):
            try:
                self._follow()
                self._open_parallel()
            except Exception:
                # The registry may be on a network volume that is back later.
                log.exception("the registry could not be read")

    def _live_versions(self) -> list[ModelVersion]:
        versions = []
        for name in self._registry.names():
            try:
                versions.append(self._registry.resolve(name))
            except NoLiveVersion:
                continue
            except ModelsError as error:
                log.error("model %s cannot be read: %s", name, error.detail)
        return versions

    def _follow(self) -> None:
        """Point references whose version has changed at the new version when it is loaded; drop removed versions."""
        for ref, version in list(self._refs.items()):
            new = self._now(ref, version)
            if new is None:
                self._refs.pop(ref, None)
            elif new != version:
                self._next = new
                if self._entry(new).future.exception() is None:
                    self._refs[ref] = new
                    log.info("%s is now version %d with calibration %d", new.name, new.version, new.calibration)
        self._next = None
        with self._lock:
            versions = list(self._entries)
        # A version that a reference still uses stays: its successor cannot be loaded.
        references = list(self._refs.values())  # a copy: other threads add some
        used = set(references)
        for version in versions:
            if version not in used and self._now(f"{version.name}:{version.version}", version) != version:
                with self._lock:
                    self._entries.pop(version, None)
                log.info(
                    "model %s:%d with calibration %d is no longer in use",
                    version.name, version.version, version.calibration,
                )  # fmt: skip

    def _now(self, ref: str, before: ModelVersion) -> ModelVersion | None:
        """Return the current version of a reference, None without one; the former one where the registry is damaged."""
        try:
            return self._registry.resolve(ref)
        except (ModelNotFound, NoLiveVersion):
            return None
        except ModelsError as error:
            log.error("model %s cannot be read: %s", ref, error.detail)
            return before


def reason_of(error: Exception) -> str:
    """Return one line that explains why a model could not be loaded; it is safe to show without an API key."""
    if isinstance(error, ModelsError):
        return error.detail
    # The text of other errors may contain paths, and ``/readyz`` needs no key.
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _failed(name: str) -> Problem:
    return Problem("model-failed", f"{name} could not be loaded; the service's log has the reason")
