"""The ways to score images by reference: jobs of a real ``snf up``, ``snf bulk`` on this machine, and on Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.by_reference.kills import descendants, scoring_processes
from benchmarks.installation import PatientClient, processes, running, snf_up, until
from benchmarks.needs import extra
from snf_models.bulk.ray_engine import PartActor
from snf_models.locations.location import Location
from tests.end_to_end.support.service import environment
from tests.support.paths import ROOT
from tests.support.ray_cluster import RayCluster, cluster_of_one

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
        drivers: Returns the processes that give out the work and collect the results, and what each is.
        lose_node: Ends a node of the cluster, if there is one.
    """

    wait: Callable[[], None]
    scorers: Callable[[], list[int]]
    others: Callable[[], list[int]] = list
    drivers: Callable[[], dict[int, str]] = dict
    lose_node: Callable[[], None] | None = None

    def kinds(self) -> dict[int, str]:
        """Return all processes, and what each is."""
        return dict.fromkeys(self.scorers(), "scoring process") | self.drivers()


@contextmanager
def jobs(home: Path, folder: Path, workers: int, **options: Any) -> Iterator[Callable[[Path], Scoring]]:
    """Run ``snf up`` and more workers; give a function that begins a job on the images, with its output folder.

    Args:
        home: Its ``SNF_HOME``.
        folder: The images.
        workers: Number of workers.
        options: More parameters of the job.
    """
    settings = {**JOBS, "allowed_locations": Location.parse(str(folder.parent)).url}
    with snf_up(home, **settings) as client, ExitStack() as stack:
        for _ in range(workers - 1):
            stack.enter_context(running("snf_app.cli.main", "worker", home=home, runtime_dir=home / "run", **settings))
        until("workers", 120, lambda: len(client.document("/v1/workers")["workers"]) == workers)
        reference = {"name": "images", "location": Location.parse(str(folder)).url}
        client.post("/v1/datasets/references", json=reference, timeout=LONGEST_S).raise_for_status()

        def begin(out: Path) -> Scoring:
            parameters = {"output": Location.parse(str(out)).url, **options}
            request = {"type": "score", "dataset": "images", "model": MODEL, "parameters": parameters}
            job = client.submit(request, key=out.name)
            return Scoring(
                lambda: finish(client, job),
                lambda: scoring_processes(home),
                lambda: [one.pid for one in processes(home) if one.role == "worker"],
                lambda: {one.pid: one.role for one in processes(home) if one.role in ("worker", "service", "server")},
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
    lose_node: Callable[[], None] | None = None,
) -> Scoring:
    """Begin ``snf bulk``, with one thread for each process, and return the scoring.

    Args:
        home: Its ``SNF_HOME``.
        images: Path or URL of the images.
        out: Path or URL of the scores.
        options: More options.
        scorers: Returns the processes that score, from the process id of the command.
        variables: More environment variables.
        lose_node: Ends a node of the cluster, if there is one.
    """
    log = home / "bulk.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "snf_app.cli.main", "bulk", images, "--out", out, "--model", MODEL, *options],
            cwd=ROOT,
            env=environment(home, threads=THREADS) | dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def wait() -> None:
        if process.wait(LONGEST_S) != 0:
            raise RuntimeError(f"snf bulk ended with {process.returncode}:\n{log.read_text()[-2000:]}")

    return Scoring(
        wait,
        lambda: scorers(process.pid),
        drivers=lambda: {process.pid: "snf bulk"},
        lose_node=lose_node,
    )


def local_processes(pid: int) -> list[int]:
    """Return the processes of the local engine of a command."""
    return descendants(pid, b"multiprocessing.spawn")


def ray_actors(_pid: int) -> list[int]:
    """Return the processes below this one in which Ray runs our actors."""
    return descendants(os.getpid(), f"ray::{PartActor.__name__}".encode())


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Run a Ray cluster of two nodes with one core each on this machine."""
    with extra("ray"), cluster_of_one() as cluster:
        cluster.add_second()
        yield cluster


def replace_node(cluster: RayCluster) -> None:
    """End a node of a cluster with all its processes, and add another one."""
    cluster.lose_second()
    cluster.add_second()
