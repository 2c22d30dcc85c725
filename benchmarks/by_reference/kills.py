"""Random ends of scoring processes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

TICK_S = 0.2
SPREAD_OVER, RANDOM_OVER = 0.6, 0.95
"""Share of the work in which processes are killed. Those that live in the rest show whether memory grows."""


def scoring_processes(home: Path) -> list[int]:
    """Return the processes of jobs of a home that score: ``snf_worker.attempts.score``."""
    return [
        pid
        for pid, line in command_lines().items()
        if b"snf_worker.attempts.score" in line
        and any(part.startswith(os.fsencode(home)) for part in line.split(b"\0"))
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


class Kills:
    """Kills of random scoring processes at random parts of the work, a seeded number of times.

    Args:
        victims: Returns the processes that may be killed.
        done: Returns the share of the work that is done.
        count: Number of kills.
        spread: Whether there is a kill in each of ``count`` equal spans of the first part of the work. Otherwise all
            moments are random, and processes may be killed again while they load their models.
        lose_node: Ends a node of a cluster and adds another; it takes the place of the kill in the middle.
        seed: Seed of the moments and of the victims.
    """

    def __init__(
        self,
        victims: Callable[[], list[int]],
        done: Callable[[], float],
        count: int,
        *,
        spread: bool = True,
        lose_node: Callable[[], None] | None = None,
        seed: int = 0,
    ) -> None:
        self._victims = victims
        self._done = done
        self._lose_node = lose_node
        self._chance = random.Random(seed)
        drawn = [self._chance.random() for _ in range(count)]
        if spread:
            self._moments = [SPREAD_OVER * (number + share) / count for number, share in enumerate(drawn)]
        else:
            self._moments = [RANDOM_OVER * share for share in sorted(drawn)]
        self.killed: list[float] = []
        """Share of the work that was done at each kill."""
        self.nodes_lost = 0

    def during(self, work: Callable[[], None]) -> None:
        """Do the work, and kill processes meanwhile. Ray starts nodes only in the main thread: the work has another."""
        with ThreadPoolExecutor(1, "work") as pool:
            working = pool.submit(work)
            while not working.done():
                time.sleep(TICK_S)
                self._turn()
            working.result()

    def _turn(self) -> None:
        """Kill a process if the next moment has come."""
        if len(self.killed) == len(self._moments):
            return
        done = self._done()
        if done < self._moments[len(self.killed)]:
            return
        time.sleep(self._chance.uniform(0.0, 2.0))  # parts end at the moments, which would be the same every time
        if self._lose_node is not None and len(self.killed) == len(self._moments) // 2:
            self._lose_node()
            self.nodes_lost += 1
            self.killed.append(done)
        elif victims := sorted(self._victims()):
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(victims), signal.SIGKILL)
                self.killed.append(done)
