"""Bulk scoring on this machine: in this process, or in several that take parts from it."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from models.bulk.part import Stopped
from models.bulk.work import BulkWork
from models.errors import ModelsError, PartFailed

MAX_DEATHS = 3
"""Processes that a part may end before it is given up."""
TICK_S = 0.2
STOP_S = 10.0
"""Time in seconds that a process has to end after it was asked to."""

Message = int | str | None
"""From a process: the images of a batch, None once it is ready for a part, or a sentence on why it cannot go on."""


@dataclass(frozen=True)
class LocalEngine:
    """Engine that scores on this machine.

    Attributes:
        processes: Number of processes; 1 for this process alone. The threads of the machine are divided among them.
    """

    processes: int = 1

    def run(
        self,
        work: BulkWork,
        missing: Sequence[int],
        should_stop: Callable[[], bool],
        advance: Callable[[int], None],
    ) -> None:
        """Score parts; see :meth:`models.bulk.engines.BulkEngine.run`."""
        if self.processes == 1 or len(missing) <= 1:
            opened = work.open()
            for index in missing:
                opened.score(index, should_stop, advance)
            return
        crew = _Crew(work, missing, self.processes)
        try:
            while crew.is_busy:
                if should_stop():
                    raise Stopped("scoring was stopped")
                crew.step(advance)
        finally:
            crew.close()


class _Member:
    """A process that scores one part after the other."""

    def __init__(self, work: BulkWork, threads: int) -> None:
        context = get_context("spawn")  # PyTorch and OpenVINO have threads, which do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_score_parts, args=(work, threads, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.part: int | None = None
        self.scored = 0


class _Crew:
    """The processes of one run, and the parts that are left. A process that dies is replaced."""

    def __init__(self, work: BulkWork, missing: Sequence[int], processes: int) -> None:
        self._work = work
        self._left = deque(missing)
        self._deaths: Counter[int | None] = Counter()
        count = min(processes, len(missing))
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        self._threads = max(1, cores // count)
        self._members = [_Member(work, self._threads) for _ in range(count)]

    @property
    def is_busy(self) -> bool:
        """Whether a part is left or being scored."""
        return bool(self._left) or any(member.part is not None for member in self._members)

    def step(self, advance: Callable[[int], None]) -> None:
        """Wait a moment for messages of the processes, and give those that are ready a part."""
        ready = wait([member.connection for member in self._members], TICK_S)
        for member in [member for member in self._members if member.connection in ready]:
            try:
                message: Message = member.connection.recv()
            except (EOFError, ConnectionResetError):
                self._replace(member, advance)
                continue
            if isinstance(message, str):
                raise PartFailed(message)
            if message is None:
                self._give_part(member)
            else:
                member.scored += message
                advance(message)

    def close(self) -> None:
        """End all processes. A part that one of them is scoring is not written."""
        for member in self._members:
            member.connection.close()  # they look for this between two batches
        for member in self._members:
            member.process.join(STOP_S)
            member.process.kill()
            member.process.join()

    def _give_part(self, member: _Member) -> None:
        member.part = self._left.popleft() if self._left else None
        member.scored = 0
        if member.part is not None:
            with suppress(BrokenPipeError):  # it died just now, which the next step finds
                member.connection.send(member.part)

    def _replace(self, member: _Member, advance: Callable[[int], None]) -> None:
        member.process.join()
        member.connection.close()
        self._deaths[member.part] += 1
        if self._deaths[member.part] >= MAX_DEATHS:
            doing = "while loading the model" if member.part is None else f"while scoring {self._label(member.part)}"
            raise PartFailed(
                f"{MAX_DEATHS} processes died {doing}, the last {_cause(member.process.exitcode or 0)}; each has a "
                "copy of the model in memory: fewer processes need less"
            )
        if member.part is not None:
            self._left.appendleft(member.part)
            advance(-member.scored)
        self._members[self._members.index(member)] = _Member(self._work, self._threads)

    def _label(self, part: int) -> str:
        start, stop = self._work.output.plan.ranges[part]
        return f"images {start} to {stop - 1}"


def _cause(code: int) -> str:
    """Return the cause of a process's end in words.

    >>> _cause(-9), _cause(1)
    ('by signal SIGKILL', 'with exit code 1')
    """
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _score_parts(work: BulkWork, threads: int, connection: Connection) -> None:
    """Score the parts whose numbers come through a connection, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one ends the others
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, Stopped):
        try:
            opened = work.open(threads)
            while True:
                connection.send(None)
                index = connection.recv()
                # Nothing is sent while a part is scored, so that something to read is the end of the connection.
                opened.score(index, connection.poll, connection.send)
        except ModelsError as error:
            connection.send(f"{error.title}: {error.detail}")
