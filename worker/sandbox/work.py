"""The inside of a process that works on files of unknown origin, within limits that its parent set."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import ModelsError
from worker.gc_tuning import look_rarely
from worker.runtime.lifeline import watch

NICENESS = 10
PROGRESS_S = 0.1
"""Time between two messages of progress."""
GRACE_CPU_S = 5
"""Processor time between the signal that says that it is used up and the one that cannot be ignored."""

OOM_SCORE_ADJ = 900
"""Of 1000 at most: the kernel ends such processes before worker, broker and service."""

log = logging.getLogger(__name__)

Tell = Callable[[int, int], None]
"""Takes how much is done, and of how much."""


def do_limited(work: Callable[[Any, Tell], Any]) -> None:
    """Do ``work`` on the order in stdin and answer on stdout, as ``worker.sandbox.process`` reads it.

    ``work`` takes the order and a function to report progress to. A ``ModelsError`` that it raises, and the end of its
    memory, are answers too; any other error ends the process with a traceback. Import large modules inside ``work``:
    limits and niceness are set here first.
    """
    os.nice(NICENESS)
    look_rarely()
    watch(lambda _message: None, lambda: os.killpg(0, signal.SIGKILL))
    given = json.load(sys.stdin.buffer)
    limit_memory(given["limits"]["memory_bytes"])
    be_ended_first()
    cpu_s = given["limits"]["cpu_s"]
    lower_limit(resource.RLIMIT_CPU, cpu_s, cpu_s + GRACE_CPU_S)
    lower_limit(resource.RLIMIT_CORE, 0, 0)
    # What else prints must not come between the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    _write(answers, _answer(work, given["order"], _Progress(answers)))


def limit_memory(most: int | None) -> None:
    """Make allocations beyond ``most`` bytes fail, where a limit is set and the system (Linux) counts them."""
    if most is not None:
        lower_limit(resource.RLIMIT_DATA, most, most)


def lower_limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit of the system; one that this process inherited and that is lower stays."""
    _, inherited = resource.getrlimit(kind)
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError) as problem:
        log.warning("the system refuses limit %d at %d: %s", kind, soft, problem)


def be_ended_first() -> None:
    """Make the kernel (Linux) end this process and its children before others where the machine runs out of memory."""
    try:
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE_ADJ}\n", encoding="ascii")
    except OSError as problem:
        log.debug("the kernel has no such setting: %s", problem)


class _Progress:
    """Writes progress as messages, a few a second."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._written = 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._written > PROGRESS_S:
            self._written = time.monotonic()
            _write(self._answers, {"progress": [done, total]})


def _answer(work: Callable[[Any, Tell], Any], order: Any, progress: Tell) -> dict[str, Any]:
    try:
        return {"result": work(order, progress)}
    except ModelsError as error:
        problem = {"slug": error.slug, "title": error.title, "kind": error.kind, "detail": error.detail}
        return {"problem": problem}
    except MemoryError:
        return {"limit": "memory"}


def _write(answers: int, message: dict[str, Any]) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(answers, data) :]
