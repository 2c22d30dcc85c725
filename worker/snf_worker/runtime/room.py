from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

from snf_models.disk_space import folder_problem, require_room, usable_bytes
from snf_models.errors import StorageFull, StorageReadOnly
from snf_worker.jobs.submission import ROOM_BYTES

log = logging.getLogger(__name__)

RETRY_S = 3600.0
"""Time in seconds after which a job that met a full disk is taken again although there is no more room."""
BACK_OFF_S = 30.0
"""Shortest time in seconds from a second full disk to the next attempt; it doubles each time, up to ``RETRY_S``."""
_MAX_DOUBLINGS = 7
_CHECK_S = 1.0


class _Failure(NamedTuple):
    """A full disk that a job met: how often it has met one, the room in bytes to wait for on a disk, and the time."""

    times: int
    needed: dict[Path, int]
    at: float

    @property
    def back_off_s(self) -> float:
        return min(RETRY_S, BACK_OFF_S * (2.0 ** min(self.times - 1, _MAX_DOUBLINGS) - 1))


def room_problem(folder: Path) -> str | None:
    """Return why jobs cannot write to a folder, such as a full disk, or None."""
    problem = folder_problem(folder, writes=True)
    if problem is not None:
        return problem
    try:
        require_room(folder, ROOM_BYTES)
    except StorageFull as full:
        return full.detail
    return None


class DiskRoom:
    """Monitor of the disk of all jobs, and memory of this process of the jobs that met a full disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failures: dict[str, _Failure] = {}

    def wait(self, stopping: threading.Event) -> None:
        """Wait until the disk has room for a job and accepts writes, or the worker stops."""
        waiting = False
        while not stopping.is_set():
            problem = room_problem(self._folder)
            if problem is None:
                break
            if not waiting:
                log.error("no job is taken: %s", problem)
            waiting = True
            stopping.wait(_CHECK_S)
        if waiting and not stopping.is_set():
            log.info("the disk takes writes again: jobs go on")

    def note_failure(self, job_id: str, output: Path | None = None) -> None:
        """Record that a job met a full disk, its own or that of ``output``, and the room to wait for."""
        now = time.monotonic()
        earlier = self._failures.get(job_id)
        self._failures = {job: failure for job, failure in self._failures.items() if now - failure.at < RETRY_S}
        times = 1 if earlier is None else earlier.times + 1
        folders = [self._folder] if output is None else [self._folder, output]
        needed = {folder: usable_bytes(folder) + ROOM_BYTES for folder in folders}
        self._failures[job_id] = _Failure(times, needed, now)

    def allows(self, job_id: str) -> bool:
        """Return whether a job met no full disk, has more room after a back-off, or has waited an hour."""
        failure = self._failures.get(job_id)
        if failure is None:
            return True
        passed_s = time.monotonic() - failure.at
        more = any(usable_bytes(folder) >= needed for folder, needed in failure.needed.items())
        return passed_s >= RETRY_S or (more and passed_s >= failure.back_off_s)

    def error(self, problem: StorageFull | StorageReadOnly | None = None) -> dict[str, str]:
        """Return the error to record for a job, by default as the folder is now."""
        read_only = folder_problem(self._folder, writes=True) is not None
        kind = type(problem) if problem else (StorageReadOnly if read_only else StorageFull)
        detail = "the disk is full or takes no writes; the checkpoints of the job are kept"
        return {"type": kind.slug, "title": kind.title, "detail": detail}
