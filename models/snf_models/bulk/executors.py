"""Executors of bulk scoring: this process or several of this machine, and the queue of parts that members share."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.work import BulkWork
from snf_models.disk import storage_error
from snf_models.errors import EngineUnavailable, ErrorKind, Interrupted, ModelsError, PartFailed

if TYPE_CHECKING:
    from snf_models.scorer import Scorer

log = logging.getLogger(__name__)

TRANSIENT = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.NO_SPACE})
"""Kinds of errors that another process, or the same one later, may not meet."""
ATTEMPTS = 3
"""Times that a part may fail, and that process after process may fail to load the model."""
TICK_S = 0.2
STOP_S = 10.0
"""Time in seconds that all processes together have to end after they were asked to."""

ExecutorName = Literal["local", "ray"]
Message = int | ModelsError | None
"""From a process: images of its part that are scored, None once it is ready for a part, or why it ends."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that an executor calls in the thread of its ``run``; none may take long."""

    should_stop: Callable[[], bool] = lambda: False  # called several times a second, or before every batch
    advance: Callable[[int], None] = lambda _images: None  # images scored since the last call, or lost if negative
    part_written: Callable[[int], None] = lambda _images: None  # images of the part
    notice: Callable[[str], None] = lambda _sentence: None  # why nothing is scored for now


class Executor(Protocol):
    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        """Score the missing parts. Raises ``Interrupted``, ``PartFailed``, or the ``ModelsError`` of a process."""
        ...


def executor(name: ExecutorName, processes: int = 1, ray_address: str | None = None) -> Executor:
    """Return the executor; raise ``EngineUnavailable`` if it is not installed, or Ray has no address."""
    if name == "local":
        return ThisProcess() if processes == 1 else Processes(processes)
    if importlib.util.find_spec("ray") is None:
        raise EngineUnavailable("the engine ray is not installed: pip install 'snf-density[ray]'")
    if ray_address is None:
        raise EngineUnavailable("the engine ray needs a cluster: set SNF_RAY_ADDRESS to its HOST:PORT")
    from snf_models.bulk.ray_actors import RayActors  # noqa: PLC0415  # it imports this module

    return RayActors(ray_address)


@dataclass(frozen=True)
class ThisProcess:
    """Executor of this process, with a scorer if one is loaded already."""

    scorer: Scorer | None = None

    def run(self, work: BulkWork, missing: Iterable[int], callbacks: Callbacks) -> None:
        opened = work.open(scorer=self.scorer)
        for index in missing:
            summary = opened.score(index, callbacks.should_stop, callbacks.advance)
            callbacks.part_written(summary.images)


class Member(ABC):
    """A process that loads the model, which ``part`` None stands for, and scores one part after the other."""

    def __init__(self) -> None:
        self.part: int | None = None
        self.began = time.monotonic()

    @abstractmethod
    def score(self, part: int) -> None:
        """Begin to score a part."""

    @abstractmethod
    def end(self) -> None: ...


M = TypeVar("M", bound=Member)


class PartQueue(Generic[M]):
    """Queue of the parts that are still to be scored by its members, with retries if one of them fails."""

    def __init__(self, plan: BulkPlan, missing: Sequence[int], attempts: int, callbacks: Callbacks) -> None:
        self.members: list[M] = []
        self._plan = plan
        self._left = deque(missing)
        self._attempts = attempts
        self._callbacks = callbacks
        self._scored: dict[int, int] = {}  # images of each part under way
        self._failures: Counter[int] = Counter()
        self._failures_to_load = 0
        self._counted_at = float("-inf")

    @property
    def unfinished(self) -> int:
        return len(self._left) + len(self._scored)

    @property
    def left(self) -> int:
        return len(self._left)

    def run(self, step: Callable[[], None]) -> None:
        """Call ``step`` until all parts are scored; raise ``Interrupted``."""
        while self.unfinished:
            if self._callbacks.should_stop():
                raise Interrupted("scoring was stopped")
            step()

    def answered(self, member: M, error: ModelsError | None) -> None:
        """Give the next part to a member that has loaded the model or scored its part; end one without, or failed."""
        if error is None:
            self.finish(member.part)
            member.part = self.take()
            if member.part is not None:
                member.score(member.part)
                return
        self.members.remove(member)
        member.end()
        if error is not None:
            self.fail(member.part, member.began, error)

    def take(self) -> int | None:
        if not self._left:
            return None
        part = self._left.popleft()
        self._scored[part] = 0
        return part

    def advance(self, part: int, scored: int) -> None:
        """Report progress; ``scored`` counts from the start of the part."""
        more = scored - self._scored[part]
        self._scored[part] = scored
        if more:
            self._callbacks.advance(more)

    def finish(self, part: int | None) -> None:
        """Count a part as scored, or a model as loaded for None; failures to load before are forgotten."""
        self._failures_to_load = 0
        if part is not None:
            images = self._plan.images_in([part])
            self.advance(part, images)
            del self._scored[part]
            self._callbacks.part_written(images)

    def fail(self, part: int | None, began: float, error: ModelsError) -> None:
        """Return the part to the queue, or raise ``error`` if another attempt cannot help or none is left."""
        doing = "loading the model"
        if part is not None:
            start, stop = self._plan.range(part)
            doing = f"images {start} to {stop - 1}"
        if not (error.kind in TRANSIENT or isinstance(error, PartFailed)):
            raise _prefixed(error, doing)
        log.warning("%s: %s", doing, error.detail)
        if part is None:
            if began > self._counted_at:  # members that are lost together count once
                self._counted_at = time.monotonic()
                self._failures_to_load += 1
            failures = self._failures_to_load
        else:
            self.advance(part, 0)
            del self._scored[part]
            self._left.appendleft(part)
            self._failures[part] += 1
            failures = self._failures[part]
        if failures >= self._attempts:
            raise _prefixed(error, f"{doing} failed {failures} times, the last time with")


def typed(error: Exception) -> ModelsError:
    """Return any error as a ``ModelsError``: those of a disk as ``StorageFull`` or ``StorageReadOnly``."""
    if isinstance(error, ModelsError):
        return error
    log.error("a part cannot be scored", exc_info=error)
    return storage_error(error) or PartFailed(f"{type(error).__name__}: {error}")


def _prefixed(error: ModelsError, doing: str) -> ModelsError:
    longer = copy.copy(error)
    longer.detail = f"{doing}: {error.detail}"
    longer.args = (longer.detail,)
    return longer


@dataclass(frozen=True)
class Processes:
    """Executor of several processes, which divide the threads of the machine. One that dies is replaced."""

    count: int

    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        if len(missing) <= 1:
            ThisProcess().run(work, missing, callbacks)
            return
        queue: PartQueue[_PartProcess] = PartQueue(work.output.plan, missing, ATTEMPTS, callbacks)
        count = min(self.count, len(missing))
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        threads = max(1, cores // count)

        def step() -> None:
            while len(queue.members) < min(count, queue.unfinished):
                queue.members.append(_PartProcess(work, threads))
            ready = wait([process.connection for process in queue.members], TICK_S)
            for process in [process for process in queue.members if process.connection in ready]:
                message = process.receive()
                if isinstance(message, int):
                    assert process.part is not None
                    process.scored += message
                    queue.advance(process.part, process.scored)
                else:
                    queue.answered(process, message)

        try:
            queue.run(step)
        finally:
            _end(queue.members)


class _PartProcess(Member):
    def __init__(self, work: BulkWork, threads: int) -> None:
        super().__init__()
        context = get_context("spawn")  # PyTorch and OpenVINO have threads, which do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_score_parts, args=(work, threads, theirs), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()
        self.scored = 0

    def score(self, part: int) -> None:
        self.scored = 0
        with suppress(BrokenPipeError):  # it died just now, which the next message says
            self.connection.send(part)

    def receive(self) -> Message:
        try:
            message: Message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return PartFailed(_death(self.process.exitcode or 0))
        return message

    def end(self) -> None:
        self.connection.close()
        self.process.kill()  # it has nothing left to do
        self.process.join()


def _end(processes: Sequence[_PartProcess]) -> None:
    """End processes in the middle of their parts, which are not written."""
    for process in processes:
        process.connection.close()  # they look for this between two batches
    deadline = time.monotonic() + STOP_S
    for process in processes:
        process.process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.end()


def _death(code: int) -> str:
    """Return in a sentence how a process ended.

    >>> _death(-11), _death(1)
    ('a process ended by signal SIGSEGV', 'a process ended with exit code 1')
    """
    if code == -signal.SIGKILL:
        return (
            "a process ended by signal SIGKILL, perhaps for lack of memory: each holds a copy of the model, so that "
            "fewer processes need less"
        )
    return f"a process ended {f'by signal {signal.Signals(-code).name}' if code < 0 else f'with exit code {code}'}"


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT. Processes that are started inherit that; Ctrl-C goes to all, and the first one ends the others."""
    resource_tracker.ensure_running()  # its first start, which is part of that of a process, ends with SIGINT unblocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _score_parts(work: BulkWork, threads: int, connection: Connection) -> None:
    """Score the parts whose numbers come through a connection, until its other end is closed."""
    Thread(target=_end_with_parent, name="parent", daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            opened = work.open(threads)
            while True:
                connection.send(None)
                index = connection.recv()
                # Nothing is sent while a part is scored, so that something to read is the end of the connection.
                opened.score(index, connection.poll, connection.send)
        except (EOFError, BrokenPipeError, ConnectionResetError, Interrupted):
            return
        except Exception as error:
            connection.send(typed(error))


def _end_with_parent() -> None:
    """End this process once its parent has died: no file appears after that."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
