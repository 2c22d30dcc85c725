"""Bulk scoring by actors on a Ray cluster. Images and scores do not pass through Ray."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snf_models.bulk.callbacks import Callbacks
from snf_models.bulk.part import Stopped
from snf_models.bulk.part_queue import PartQueue, typed
from snf_models.bulk.ray_connection import places, ray_at
from snf_models.errors import ModelsError, PartFailed, RayUnavailable, StorageFull

if TYPE_CHECKING:
    from snf_models.bulk.work import BulkWork, OpenWork

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Times that a part may fail, and that actor after actor may fail to load the model: they may die with nodes, too."""
TICK_S = 0.2
LOOK_S = 2.0
"""Time in seconds between two looks for nodes that joined or left the cluster."""
PROGRESS_S = 5.0
"""Time in seconds between two questions to an actor for its progress: a part may take minutes."""
ROOM_S = 30.0
"""Time in seconds without an actor that has started, after which a user is told so, and again."""
PROGRESS = "progress"
"""Name of the thread of an actor that answers questions for its progress."""


@dataclass(frozen=True)
class RayEngine:
    """Engine of actors, each with a GPU for CUDA, else as many cores as the options have threads."""

    address: str

    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        """Score the missing parts; raise ``RayUnavailable``, too, if the cluster cannot be reached or has no room."""
        with ray_at(self.address, callbacks.should_stop) as ray:
            parts = PartQueue(work.output.plan, missing, ATTEMPTS, callbacks)
            actors = _Actors(ray, work, parts, callbacks)
            try:
                while parts.unfinished:
                    if callbacks.should_stop():
                        raise Stopped("scoring was stopped")
                    actors.step()
            except ray.exceptions.RayError as error:
                log.error("Ray failed: %s", error)
                raise RayUnavailable(f"Ray at {self.address} failed with {type(error).__name__}") from error


class PartActor:
    """Ray actor, whose ``open`` and ``score`` return an error instead of raising it."""

    def __init__(self, work: BulkWork, threads: int) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch is imported
        self._work, self._threads = work, threads
        self._opened: OpenWork | None = None
        self._progress: tuple[int | None, int] = None, 0

    def open(self) -> ModelsError | None:
        try:
            self._opened = self._work.open(self._threads)
        except Exception as error:
            return typed(error)
        return None

    def score(self, part: int) -> ModelsError | None:
        assert self._opened is not None
        self._progress = part, 0

        def advance(images: int) -> None:
            self._progress = part, self._progress[1] + images

        try:
            self._opened.score(part, lambda: False, advance)
        except Exception as error:
            return typed(error)
        return None

    def progress(self) -> tuple[int | None, int]:
        """Return the current or last part, None before the first, and the number of its images that are scored."""
        return self._progress


class _Actor:
    """An actor of a run, and the calls of it that have not returned; times are of ``time.monotonic``."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.began = self.ask_at = time.monotonic()
        self.part: int | None = None
        self.call = handle.open.remote()
        self.question: Any = None
        self.has_started = False


class _Actors:
    """The actors of one run. One gets parts once it has loaded its model, and is replaced while there are parts."""

    def __init__(self, ray: Any, work: BulkWork, parts: PartQueue, callbacks: Callbacks) -> None:
        options = work.model.options
        self._ray, self._parts, self._callbacks = ray, parts, callbacks
        self._threads = options.threads or 1
        self._on_gpu = options.device.startswith("cuda")
        if self._on_gpu:  # Ray shows an actor only the GPU that it may use
            work = replace(work, model=replace(work.model, options=replace(options, device="cuda:0")))
        self._work = work
        self._class = ray.remote(num_cpus=self._threads, num_gpus=int(self._on_gpu), concurrency_groups={PROGRESS: 1})(
            PartActor
        )
        self._running: list[_Actor] = []
        self._look_at = 0.0
        self._room_at = time.monotonic() + ROOM_S

    def step(self) -> None:
        """Start actors where there is room, and wait a moment for answers of those that run."""
        now = time.monotonic()
        if self._parts.left and now >= self._look_at:
            self._look_at = now + LOOK_S
            room = places(self._ray, self._threads, on_gpu=self._on_gpu)
            for _ in range(min(room, self._parts.unfinished) - len(self._running)):
                self._running.append(_Actor(self._class.remote(self._work, self._threads)))
        if any(actor.has_started for actor in self._running):
            self._room_at = now + ROOM_S
        elif now >= self._room_at:
            self._room_at = now + ROOM_S
            self._callbacks.notice("waits for room on the Ray cluster")
        for actor in self._running:
            if actor.question is None and now >= actor.ask_at:
                actor.question = actor.handle.progress.options(concurrency_group=PROGRESS).remote()
        self._wait()

    def _wait(self) -> None:
        calls = {actor.call: actor for actor in self._running}
        questions = {actor.question: actor for actor in self._running if actor.question is not None}
        if not calls:  # all were lost just now
            time.sleep(TICK_S)
            return
        done, _ = self._ray.wait([*calls, *questions], num_returns=1, timeout=TICK_S)
        for answer in done:
            if answer in calls:
                self._take(calls[answer])
            else:
                self._take_progress(questions[answer])

    def _take_progress(self, actor: _Actor) -> None:
        question, actor.question = actor.question, None
        actor.ask_at = time.monotonic() + PROGRESS_S
        try:
            part, scored = self._ray.get(question)
        except self._ray.exceptions.RayError:
            return  # the call for its part fails by the same error
        actor.has_started = True
        if part is not None and part == actor.part:
            self._parts.advance(part, scored)

    def _take(self, actor: _Actor) -> None:
        try:
            problem: ModelsError | None = self._ray.get(actor.call)
        except self._ray.exceptions.RayError as error:
            log.warning("an actor of Ray was lost: %s", error)
            problem = _loss(self._ray, error)
        actor.has_started = True
        if problem is not None:
            self._running.remove(actor)
            self._ray.kill(actor.handle)
            self._parts.fail(actor.part, actor.began, problem)
            return
        if actor.part is None:
            self._parts.loaded()
        else:
            self._parts.finish(actor.part)
        actor.part = self._parts.take()
        if actor.part is None:
            self._running.remove(actor)  # nothing refers to it any more, so that Ray ends it
        else:
            actor.call = actor.handle.score.remote(actor.part)


def _loss(ray: Any, error: Exception) -> ModelsError:
    """Return in a sentence how Ray lost an actor; Ray's own text is for the log."""
    known = ray.exceptions
    if isinstance(error, known.OutOfMemoryError):
        return PartFailed(
            "Ray ended an actor for lack of memory on its node: each holds a copy of the model, so that fewer actors "
            "with more cores each (SNF_THREADS, for jobs SNF_TRAIN_THREADS) need less"
        )
    if isinstance(error, known.OutOfDiskError):
        return StorageFull("the disk of a node of the Ray cluster is full")
    if isinstance(error, known.RayTaskError):  # outside of our own code, such as another version on the node
        return PartFailed(f"an actor of Ray failed with {type(error.cause).__name__}: {error.cause}")
    return PartFailed(f"an actor of Ray or its node was lost ({type(error).__name__})")
