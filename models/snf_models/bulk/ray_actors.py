"""Bulk scoring by actors on a Ray cluster, through which neither images nor scores pass.

This program starts no cluster, as a head node of Ray contacts other hosts.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from snf_models.bulk.executors import TICK_S, Callbacks, Member, PartQueue, typed
from snf_models.errors import Interrupted, ModelsError, PartFailed, RayUnavailable, StorageFull

if TYPE_CHECKING:
    from snf_models.bulk.work import BulkWork, OpenWork

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Times that a part may fail, and that actor after actor may fail to load the model: they may die with nodes, too."""
CONNECT_S = 5.0
ANSWER_S = 30.0
"""Time in seconds that a cluster has to answer."""
LOOK_S = 2.0
"""Time in seconds between two looks for nodes that joined or left the cluster."""
PROGRESS_S = 5.0
"""Time in seconds between two questions to an actor for its progress: a part may take minutes."""
ROOM_S = 30.0
"""Time in seconds without an actor that has started, after which a user is told so, and again."""
PROGRESS = "progress"
"""Name of the thread of an actor that answers questions for its progress."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


@dataclass(frozen=True)
class RayActors:
    """Executor of actors, each with a GPU for CUDA, else as many cores as the options have threads."""

    address: str

    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        """Score the missing parts; raise ``RayUnavailable``, too, if the cluster cannot be reached or has no room."""
        with ray_at(self.address, callbacks.should_stop) as ray:
            queue: PartQueue[_Actor] = PartQueue(work.output.plan, missing, ATTEMPTS, callbacks)
            try:
                queue.run(_Actors(ray, work, queue, callbacks).step)
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


class _Actor(Member):
    """An actor of a run, and the calls of it that have not returned."""

    def __init__(self, ray: Any, handle: Any) -> None:
        super().__init__()
        self._ray, self.handle = ray, handle
        self.ask_at = self.began
        self.call = handle.open.remote()
        self.question: Any = None
        self.has_started = False

    def score(self, part: int) -> None:
        self.call = self.handle.score.remote(part)

    def end(self) -> None:
        self._ray.kill(self.handle)


class _Actors:
    """The actors of one run, which are replaced while there are parts for them."""

    def __init__(self, ray: Any, work: BulkWork, queue: PartQueue[_Actor], callbacks: Callbacks) -> None:
        options = work.model.options
        self._ray, self._queue, self._callbacks = ray, queue, callbacks
        self._threads = options.threads or 1
        self._on_gpu = options.device.startswith("cuda")
        if self._on_gpu:  # Ray shows an actor only the GPU that it may use
            work = replace(work, model=replace(work.model, options=replace(options, device="cuda:0")))
        self._work = work
        self._class = ray.remote(num_cpus=self._threads, num_gpus=int(self._on_gpu), concurrency_groups={PROGRESS: 1})(
            PartActor
        )
        self._look_at = 0.0
        self._room_at = time.monotonic() + ROOM_S

    def step(self) -> None:
        """Start actors where there is room, and wait a moment for answers of those that run."""
        now = time.monotonic()
        actors = self._queue.members
        if self._queue.left and now >= self._look_at:
            self._look_at = now + LOOK_S
            room = places(self._ray, self._threads, on_gpu=self._on_gpu)
            for _ in range(min(room, self._queue.unfinished) - len(actors)):
                actors.append(_Actor(self._ray, self._class.remote(self._work, self._threads)))
        if any(actor.has_started for actor in actors):
            self._room_at = now + ROOM_S
        elif now >= self._room_at:
            self._room_at = now + ROOM_S
            self._callbacks.notice("waits for room on the Ray cluster")
        for actor in actors:
            if actor.question is None and now >= actor.ask_at:
                actor.question = actor.handle.progress.options(concurrency_group=PROGRESS).remote()
        self._wait()

    def _wait(self) -> None:
        calls = {actor.call: actor for actor in self._queue.members}
        questions = {actor.question: actor for actor in self._queue.members if actor.question is not None}
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
            self._queue.advance(part, scored)

    def _take(self, actor: _Actor) -> None:
        try:
            problem: ModelsError | None = self._ray.get(actor.call)
        except self._ray.exceptions.RayError as error:
            log.warning("an actor of Ray was lost: %s", error)
            problem = _loss(self._ray, error)
        actor.has_started = True
        self._queue.answered(actor, problem)


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


@contextmanager
def ray_at(address: str, should_stop: Callable[[], bool]) -> Iterator[Any]:
    """Yield ``ray``, connected; end our actors after the block; raise ``Interrupted``, ``RayUnavailable``."""
    host, _, port = address.rpartition(":")
    try:  # Ray itself tries for minutes
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise RayUnavailable(f"cannot reach Ray at {address} (SNF_RAY_ADDRESS): {error}") from error
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end of a connection starts no Ray
    ray: Any = import_module("ray")  # an extra, and after its settings
    try:
        _connect(ray, address, should_stop)
        with redirect_stdout(sys.stderr):  # Ray prints what happens to its nodes
            yield ray
    finally:
        ray.shutdown()


def places(ray: Any, threads: int, *, on_gpu: bool) -> int:
    """Return how many actors fit on all nodes, resources in use included; raise ``RayUnavailable`` for none."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [min(node.get("CPU", 0) // threads, node.get("GPU", 0) if on_gpu else float("inf")) for node in nodes]
    if not any(rooms):
        wanted = f"{threads} core{'s' if threads > 1 else ''}" + (" and a GPU" if on_gpu else "")
        raise RayUnavailable(f"expected a node of {wanted} in the Ray cluster, got {len(nodes)} nodes without")
    return int(sum(rooms))


def _connect(ray: Any, address: str, should_stop: Callable[[], bool]) -> None:
    """Connect within a time limit, in a thread, so that Ray puts no signal handlers in the place of ours."""
    failures: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)  # it warns of the handlers
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=connect, name="ray-connection", daemon=True)
    thread.start()
    deadline = time.monotonic() + ANSWER_S
    advice = ""
    if address.rpartition(":")[0] in LOOPBACK:
        advice = (
            "; Ray takes a loopback address for the outward address of this machine: expected the address that `ray "
            "start` printed on the head node"
        )
    while thread.is_alive():
        if should_stop():
            raise Interrupted("connecting to Ray was stopped")
        if time.monotonic() > deadline:
            raise RayUnavailable(f"no Ray answers at {address} (SNF_RAY_ADDRESS) within {ANSWER_S:g} s{advice}")
        thread.join(TICK_S)
    if failures:
        log.error("cannot connect to Ray: %s", failures[0])
        what = str(failures[0]).strip().partition("\n")[0]
        raise RayUnavailable(f"cannot connect to Ray at {address}: {what}{advice}") from failures[0]
