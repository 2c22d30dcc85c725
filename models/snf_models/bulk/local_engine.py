from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from threading import Thread

from snf_models.bulk.callbacks import Callbacks
from snf_models.bulk.part import Stopped
from snf_models.bulk.part_queue import PartQueue, typed
from snf_models.bulk.work import BulkWork
from snf_models.errors import ModelsError, PartFailed

ATTEMPTS = 3
"""Times that a part may fail, and that process after process may fail to load the model."""
TICK_S = 0.2
STOP_S = 10.0
"""Time in seconds that all processes together have to end after they were asked to."""

Message = int | ModelsError | None
"""From a process: images of its part that are scored, None once it is ready for a part, or why it ends."""


@dataclass(frozen=True)
class LocalEngine:
    """Engine of this process, or of several, which divide the threads of the machine."""

    processes: int = 1

    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        if self.processes == 1 or len(missing) <= 1:
            opened = work.open()
            for index in missing:
                summary = opened.score(index, callbacks.should_stop, callbacks.advance)
                callbacks.part_written(summary.images)
            return
        parts = PartQueue(work.output.plan, missing, ATTEMPTS, callbacks)
        processes = _Processes(work, parts, min(self.processes, len(missing)))
        try:
            while parts.unfinished:
                if callbacks.should_stop():
                    raise Stopped("scoring was stopped")
                processes.step()
        finally:
            processes.close()


class _PartProcess:
    """A process that scores one part after the other; ``began`` is by ``time.monotonic``."""

    def __init__(self, work: BulkWork, threads: int) -> None:
        context = get_context("spawn")  # PyTorch and OpenVINO have threads, which do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_score_parts, args=(work, threads, theirs), daemon=True)
        self.began = time.monotonic()
        with _without_interrupts():
            self.process.start()
        theirs.close()
        self.is_loaded = False
        self.part: int | None = None
        self.scored = 0


class _Processes:
    """The processes of one run. One that ends is replaced while there are parts for it."""

    def __init__(self, work: BulkWork, parts: PartQueue, count: int) -> None:
        self._work, self._parts, self._count = work, parts, count
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        self._threads = max(1, cores // count)
        self._running: list[_PartProcess] = []

    def step(self) -> None:
        """Start what is missing, give parts to those that are ready, and wait a moment for messages."""
        while len(self._running) < min(self._count, self._parts.unfinished):
            self._running.append(_PartProcess(self._work, self._threads))
        for process in self._running:
            if process.is_loaded and process.part is None:
                self._give_part(process)
        ready = wait([process.connection for process in self._running], TICK_S)
        for process in [process for process in self._running if process.connection in ready]:
            try:
                message: Message = process.connection.recv()
            except (EOFError, ConnectionResetError):
                process.process.join()
                message = PartFailed(_death(process.process.exitcode or 0))
            self._take(process, message)

    def close(self) -> None:
        """End all processes. A part that one of them is scoring is not written."""
        for process in self._running:
            process.connection.close()  # they look for this between two batches
        deadline = time.monotonic() + STOP_S
        for process in self._running:
            process.process.join(max(0.0, deadline - time.monotonic()))
        for process in self._running:
            process.process.kill()
            process.process.join()

    def _give_part(self, process: _PartProcess) -> None:
        process.part, process.scored = self._parts.take(), 0
        if process.part is not None:
            with suppress(BrokenPipeError):  # it died just now, which the next message says
                process.connection.send(process.part)

    def _take(self, process: _PartProcess, message: Message) -> None:
        if isinstance(message, ModelsError):
            self._running.remove(process)
            process.connection.close()
            process.process.kill()  # it has nothing left to do
            process.process.join()
            if process.part is not None or not process.is_loaded:
                self._parts.fail(process.part, process.began, message)
        elif message is not None:
            assert process.part is not None
            process.scored += message
            self._parts.advance(process.part, process.scored)
        elif process.part is not None:
            self._parts.finish(process.part)
            process.part = None
        else:
            process.is_loaded = True
            self._parts.loaded()


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
        except (EOFError, BrokenPipeError, ConnectionResetError, Stopped):
            return
        except Exception as error:
            connection.send(typed(error))


def _end_with_parent() -> None:
    """End this process once its parent has died: no file appears after that."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
