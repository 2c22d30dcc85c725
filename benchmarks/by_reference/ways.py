"""The ways to score images by reference: jobs of a real ``snf up``, ``snf bulk`` on this machine, and on Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.by_reference.kills import command_lines, descendants, scoring_processes
from benchmarks.installation import PatientClient, processes, running, snf_up, until
from benchmarks.needs import extra
from models.locations.location import Location
from tests.end_to_end.support.service import environment
from tests.support.paths import ROOT

MODEL = "mnist-snf-glow"
THREADS = 1
LONGEST_S = 6 * 3600
JOBS = {
    "lease_seconds": 10,
    "heartbeat_seconds": 2,
    "reconcile_seconds": 2,
    "dispatch_seconds": 5,
    "train_threads": THREADS,
    "threads": THREADS,
    # A scoring may be killed again before its first part, which is no fault of it.
    "max_attempts_without_progress": 10,
}


@dataclass(frozen=True)
class Scoring:
    """A scoring under way.

    Attributes:
        wait: Waits for its end.
        scorers: Returns the processes that score.
        others: Returns more processes that may be killed.
    """

    wait: Callable[[], None]
    scorers: Callable[[], list[int]]
    others: Callable[[], list[int]] = list


@contextmanager
def jobs(home: Path, folder: Path, workers: int) -> Iterator[Callable[[Path], Scoring]]:
    """Run ``snf up`` and more workers; give a function that begins a job on the images, with its output folder."""
    settings = {**JOBS, "allowed_locations": Location.parse(str(folder.parent)).url}
    with snf_up(home, **settings) as client, ExitStack() as stack:
        for _ in range(workers - 1):
            stack.enter_context(running("app.cli.main", "worker", home=home, runtime_dir=home / "run", **settings))
        until("workers", 120, lambda: len(client.document("/v1/workers")["workers"]) == workers)
        reference = {"name": "images", "location": Location.parse(str(folder)).url}
        client.post("/v1/datasets/references", json=reference, timeout=LONGEST_S).raise_for_status()

        def begin(out: Path) -> Scoring:
            parameters = {"output": Location.parse(str(out)).url}
            request = {"type": "score", "dataset": "images", "model": MODEL, "parameters": parameters}
            job = client.submit(request, key=out.name)
            return Scoring(
                lambda: finish(client, job),
                lambda: scoring_processes(home),
                lambda: [one.pid for one in processes(home) if one.role == "worker"],
            )

        yield begin


def finish(client: PatientClient, job: str) -> None:
    """Wait for the end of a job; raises ``RuntimeError`` where it did not succeed."""

    def ended() -> dict[str, Any] | None:
        record = client.document(f"/v1/jobs/{job}")
        return record if record["status"] in ("succeeded", "partial", "failed", "cancelled") else None

    record = until("the end of the job", LONGEST_S, ended)
    if record["status"] != "succeeded":
        raise RuntimeError(f"the job is {record['status']}: {record['error']}")


def bulk(
    home: Path,
    images: str,
    out: str,
    *options: str,
    scorers: Callable[[int], list[int]] = descendants,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Scoring:
    """Begin ``snf bulk``, with one thread for each process, and return the scoring.

    Args:
        home: Its ``SNF_HOME``.
        images: Path or URL of the images.
        out: Path or URL of the scores.
        options: More options.
        scorers: Returns the processes that score, from the process id of the command.
        variables: More environment variables.
    """
    log = home / "bulk.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "bulk", images, "--out", out, "--model", MODEL, *options],
            cwd=ROOT,
            env=environment(home, threads=THREADS) | dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def wait() -> None:
        if process.wait(LONGEST_S) != 0:
            raise RuntimeError(f"snf bulk ended with {process.returncode}:\n{log.read_text()[-2000:]}")

    return Scoring(wait, lambda: scorers(process.pid))


def local_processes(pid: int) -> list[int]:
    """Return the processes of the local engine of a command."""
    return descendants(pid, b"multiprocessing.spawn")


def ray_actors(_pid: int) -> list[int]:
    """Return the processes below this one in which Ray runs actors and tasks, idle ones not counted."""
    lines = command_lines()
    return [pid for pid in descendants(os.getpid(), b"ray::") if not lines.get(pid, b"").startswith(b"ray::IDLE")]


@contextmanager
def ray_cluster(nodes: int = 2) -> Iterator[str]:
    """Run a Ray cluster of several nodes with one core each on this machine; give its address."""
    with extra("ray"):
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - the other rows do not need it

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
        time.sleep(1)
