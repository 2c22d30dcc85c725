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

from models.disk_space import storage_errors
from models.errors import ModelsError
from worker.process_tuning import tune_process
from worker.runtime.lifeline import watch

NICENESS = 10
PROGRESS_S = 0.1
"""Time in seconds between two messages of progress."""
GRACE_CPU_S = 5
"""Processor time in seconds between the signal at the limit and the kill."""

OOM_SCORE_ADJ = 900
"""Adjustment of the out-of-memory score, at most 1000: killed before worker, broker and service."""

log = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int], None]
"""Function that gets the number of finished units and the number of all units."""


def do_limited(work: Callable[[Any, ProgressCallback], Any]) -> None:
    """Run ``work`` under limits, by the protocol of ``process``. Import large modules inside ``work``."""
    os.nice(NICENESS)
    tune_process()
    watch(lambda _message: None, lambda: os.killpg(0, signal.SIGKILL))
    given = json.load(sys.stdin.buffer)
    limit_memory(given["limits"]["memory_bytes"])
    prefer_oom_kill()
    cpu_s = given["limits"]["cpu_s"]
    lower_limit(resource.RLIMIT_CPU, cpu_s, cpu_s + GRACE_CPU_S)
    lower_limit(resource.RLIMIT_CORE, 0, 0)
    # Other output of the process must not mix with the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    progress = _Progress(answers)
    answer = _answer(work, given["order"], progress)
    progress.write()
    _write(answers, answer)


def limit_memory(most: int | None) -> None:
    """Limit the bytes of memory that this process can allocate, on Linux."""
    if most is not None:
        lower_limit(resource.RLIMIT_DATA, most, most)


def lower_limit(kind: int, soft: int, hard: int) -> None:
    """Set a resource limit of this process, but never above its present hard limit."""
    _, inherited = resource.getrlimit(kind)
    if inherited != resource.RLIM_INFINITY:
        soft, hard = min(soft, inherited), min(hard, inherited)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError) as problem:
        log.warning("the system refuses to set resource limit %d to %d: %s", kind, soft, problem)


def prefer_oom_kill() -> None:
    """Make the Linux kernel kill this process and its children first when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE_ADJ}\n", encoding="ascii")
    except OSError as problem:
        log.debug("the kernel has no out-of-memory score: %s", problem)


class _Progress:
    """Writer of progress messages, a few a second, and of the last one."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._written = 0.0
        self._at = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        self._at = done, total
        if time.monotonic() - self._written > PROGRESS_S:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        _write(self._answers, {"progress": self._at})


def _answer(work: Callable[[Any, ProgressCallback], Any], order: Any, progress: ProgressCallback) -> dict[str, Any]:
    try:
        with storage_errors():
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
