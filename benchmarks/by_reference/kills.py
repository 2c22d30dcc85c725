"""Random ends of scoring processes, and samples of their memory."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.installation import resident_bytes
from benchmarks.repeated import Repeated

WARM_UP_S = 15.0
MOST_GROWTH, SLACK_BYTES = 1.1, 16 * 2**20
"""Memory of the last third may be so many times that of the first third, or so many bytes more."""


def scoring_processes(home: Path) -> list[int]:
    """Return the processes of jobs of a home that score: ``worker.attempts.score``."""
    return [
        pid
        for pid, line in command_lines().items()
        if b"worker.attempts.score" in line and any(part.startswith(os.fsencode(home)) for part in line.split(b"\0"))
    ]


def descendants(parent: int, title: bytes = b"") -> list[int]:
    """Return the processes below another one whose command line begins with or has ``title``."""
    parents = {pid: parent_of(pid) for pid in command_lines()}
    found: list[int] = []
    level = {parent}
    while level := {pid for pid, above in parents.items() if above in level}:
        found += level
    lines = command_lines()
    return [pid for pid in found if title in lines.get(pid, b"")]


def command_lines() -> dict[int, bytes]:
    """Return the command lines of all processes, with zero bytes between the arguments."""
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines[int(folder.name)] = (folder / "cmdline").read_bytes()
    return lines


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Kills(Repeated):
    """A thread that kills a random scoring process at random parts of the work, a seeded number of times.

    Args:
        victims: Returns the processes that may be killed.
        done: Returns the share of the work that is done.
        count: Number of kills.
        seed: Seed of the moments and of the victims.
    """

    def __init__(self, victims: Callable[[], list[int]], done: Callable[[], float], count: int, seed: int = 0) -> None:
        super().__init__(0.2)
        self._victims = victims
        self._done = done
        self._chance = random.Random(seed)
        # One in each of as many equal spans: processes that load their models anew are not all killed again.
        self._moments = [0.95 * (number + self._chance.random()) / count for number in range(count)]
        self.killed: list[float] = []
        """Share of the work that was done at each kill."""

    def turn(self) -> None:
        """Kill a process if the next moment has come."""
        if len(self.killed) == len(self._moments):
            return
        done = self._done()
        if done < self._moments[len(self.killed)]:
            return
        time.sleep(self._chance.uniform(0.0, 2.0))  # parts end at the moments, which would be the same every time
        victims = sorted(self._victims())
        if victims:
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(victims), signal.SIGKILL)
                self.killed.append(done)


class Memory(Repeated):
    """A thread that samples the resident memory of processes once a second."""

    def __init__(self, processes: Callable[[], list[int]]) -> None:
        super().__init__(1.0)
        self._processes = processes
        self._samples: dict[int, list[tuple[float, int]]] = defaultdict(list)

    def turn(self) -> None:
        """Take a sample of each process."""
        for pid in self._processes():
            with suppress(OSError, StopIteration):  # it ended meanwhile
                self._samples[pid].append((time.monotonic(), resident_bytes(pid)))

    def growth(self) -> dict[str, Any]:
        """Return the memory of the process that lived longest: first and last third after a warm-up, and the slope."""
        longest = max(self._samples.values(), key=lambda samples: samples[-1][0] - samples[0][0], default=[])
        samples = [one for one in longest if one[0] >= longest[0][0] + WARM_UP_S]
        if len(samples) < 6:
            return {"seconds": 0.0, "flat": False}
        third = len(samples) // 3
        first, last = (statistics.median(size for _, size in part) for part in (samples[:third], samples[-third:]))
        slope = statistics.linear_regression(*zip(*samples, strict=True)).slope
        return {
            "processes": len(self._samples),
            "seconds": samples[-1][0] - samples[0][0],
            "first_mib": first / 2**20,
            "last_mib": last / 2**20,
            "mib_an_hour": 3600 * slope / 2**20,
            "flat": last <= max(MOST_GROWTH * first, first + SLACK_BYTES),
        }
