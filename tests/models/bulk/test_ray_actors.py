"""Bulk scoring on a Ray cluster of one or two nodes of a core each, whose processes are on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snf_models.bulk import ray_actors
from snf_models.bulk.executors import Callbacks, ThisProcess, executor
from snf_models.bulk.output import Output
from snf_models.bulk.ray_actors import RayActors
from snf_models.disk import LEFTOVER
from snf_models.errors import DatasetNotFound, EngineUnavailable, Interrupted, PartFailed, RayUnavailable, StorageFull
from snf_models.scoring import EngineOptions
from tests.support.compiled_cache import compiled
from tests.support.ray_cluster import RayCluster
from tests.support.slow_images import Fault, WorkWithoutModel, slow_work
from tests.worker.support.helpers import alive, until

PART = 25
COUNT = 600
"""Images of mnist-mini."""


def contents(output: Output) -> dict[str, bytes]:
    """Files of an output, without temporary ones: a process that is killed may leave one behind."""
    folder = output.location.local_path
    return {path.name: path.read_bytes() for path in folder.iterdir() if not LEFTOVER.fullmatch(path.name)}


def test_rows_are_those_of_the_local_engine_and_progress_within_a_part_is_reported(
    small_ray_cluster: RayCluster, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_actors, "PROGRESS_S", 0.02)
    part = 150  # images, some of which are scored before the second half is read
    (tmp_path / "local").mkdir()
    local, _ = slow_work(artifact, tmp_path / "local", part, compiled())
    ThisProcess().run(local, [1, 3], Callbacks())  # with its own number of threads
    work, _ = slow_work(artifact, tmp_path, part, compiled(), seconds=1.0)  # opened there without torch
    advanced: list[int] = []
    RayActors(small_ray_cluster.address).run(work, [1, 3], Callbacks(advance=advanced.append))
    assert contents(work.output) == contents(local.output), "each file to the bit, and no other file"
    assert sum(advanced) == 2 * part
    assert len(advanced) > 2


def test_what_another_actor_can_do_is_done_again_and_other_errors_keep_their_class_and_name_the_images(
    small_ray_cluster: RayCluster, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray  # noqa: PLC0415  # after the cluster's environment

    faults = Fault(3 * PART, DatasetNotFound("deleted")), Fault(5 * PART, StorageFull("the disk is full"), 1)
    work, journal = slow_work(artifact, tmp_path, work=WorkWithoutModel, faults=faults)
    get: Callable[..., Any] = ray.get
    out_of_memory = [(0, 1)]

    def lose(call: Any) -> Any:
        """Lose the answer of an actor once a part was read so often."""
        answer = get(call)
        start, times = out_of_memory[0] if out_of_memory else (0, 99)
        if isinstance(answer, tuple) or len(journal.readers(start)) < times:
            return answer
        out_of_memory.clear()
        raise ray.exceptions.OutOfMemoryError("Refer to the documentation. " * 40)

    monkeypatch.setattr(ray, "get", lose)
    with pytest.raises(DatasetNotFound, match=r"^images 75 to 99: deleted$"):
        RayActors(small_ray_cluster.address).run(work, [0, 3], Callbacks())
    assert len(set(journal.readers(0))) == len(journal.readers(0)) == 2, "another actor does what Ray ended again"
    assert [work.output.part(index).exists() for index in (0, 3)] == [True, False]

    out_of_memory.append((5 * PART, 2))
    monkeypatch.setattr(ray_actors, "ATTEMPTS", 2)
    expected = r"^images 125 to 149 failed 2 times, the last time with: Ray ended an actor for lack"
    with pytest.raises(PartFailed, match=expected) as raised:
        RayActors(small_ray_cluster.address).run(work, [5], Callbacks())
    assert "Refer to" not in raised.value.detail
    assert len(set(journal.readers(5 * PART))) == 2, "another actor does what one could not"


def test_waiting_for_room_is_said_and_can_be_stopped(
    small_ray_cluster: RayCluster, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_actors, "ROOM_S", 0.5)
    monkeypatch.setattr(ray_actors, "places", lambda *_args, **_options: 1)  # as where others use all cores
    work, _ = slow_work(artifact, tmp_path, options=EngineOptions(threads=8))
    said: list[str] = []
    with pytest.raises(Interrupted):
        RayActors(small_ray_cluster.address).run(work, [0], Callbacks(lambda: len(said) == 2, notice=said.append))
    assert said == ["waits for room on the Ray cluster"] * 2


@pytest.fixture(scope="module")
def expected(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the local engine, without a model: plan and parts."""
    work, _ = slow_work(artifact, tmp_path_factory.mktemp("local"), work=WorkWithoutModel)
    ThisProcess().run(work, work.output.missing(), Callbacks())
    return contents(work.output)


def test_stopping_ends_the_actor_and_leaves_whole_parts(
    small_ray_cluster: RayCluster, artifact: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    work, journal = slow_work(artifact, tmp_path, work=WorkWithoutModel, seconds=0.5)
    written: list[int] = []
    callbacks = Callbacks(lambda: bool(written), part_written=written.append)
    with pytest.raises(Interrupted):
        RayActors(small_ray_cluster.address).run(work, work.output.missing(), callbacks)
    begun = journal.readers()
    assert len(begun) < COUNT // PART
    time.sleep(1.5)
    assert journal.readers() == begun
    until(lambda: not any(alive(pid) for _, pid in begun), 30)
    there = contents(work.output)
    assert there == {name: expected[name] for name in there}
    assert len(there) >= 2


def test_the_engine_needs_an_address() -> None:
    with pytest.raises(EngineUnavailable, match="the engine ray needs a cluster: set SNF_RAY_ADDRESS to its HOST:PORT"):
        executor("ray")


def test_a_cluster_without_room_or_answer_is_a_sentence(
    ray_cluster: RayCluster, artifact: Path, tmp_path: Path
) -> None:
    wide, _ = slow_work(artifact, tmp_path, options=EngineOptions(threads=8))
    with pytest.raises(RayUnavailable, match="expected a node of 8 cores in the Ray cluster, got 2 nodes without"):
        RayActors(ray_cluster.address).run(wide, [0], Callbacks())
    with pytest.raises(RayUnavailable, match=r"cannot reach Ray at 127\.0\.0\.1:1 \(SNF_RAY_ADDRESS\): .*refused"):
        RayActors("127.0.0.1:1").run(wide, [0], Callbacks())


def test_no_part_is_lost_or_doubled_where_a_process_is_killed_and_a_node_is_lost(
    ray_cluster: RayCluster, artifact: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    work, journal = slow_work(artifact, tmp_path, work=WorkWithoutModel, seconds=0.3)
    for index in (0, 7):
        work.output.part(index).write(expected[f"part-{index:06d}.parquet"])
    advanced: list[int] = []
    written: list[int] = []
    killed: list[int] = []

    def part_written(images: int) -> None:
        written.append(images)
        reading = [process for start, process in journal.readers() if not work.output.part(start // PART).exists()]
        if len(written) >= 3 and reading and not killed:
            killed.append(reading[-1])
            os.kill(killed[0], signal.SIGKILL)
        elif len(written) >= 6 and ray_cluster.has_second:
            ray_cluster.lose_second()

    callbacks = Callbacks(advance=advanced.append, part_written=part_written)
    RayActors(ray_cluster.address).run(work, work.output.missing(), callbacks)
    assert killed
    assert not ray_cluster.has_second, "the node was lost meanwhile"
    assert contents(work.output) == expected, "each file to the bit, and no other file"
    assert written == [PART] * (COUNT // PART - 2)
    assert sum(advanced) == sum(written)
    readers = journal.readers()
    assert {start // PART for start, _ in readers} == set(range(COUNT // PART)) - {0, 7}
    assert len(readers) > len(written), "what the dead processes had begun was done again"
    assert work.output.finish().images == COUNT


CONNECT = """
import signal, sys
from snf_models.bulk import ray_actors
from snf_models.errors import RayUnavailable

signal.signal(signal.SIGALRM, lambda *_: print("a signal was handled", flush=True))
signal.setitimer(signal.ITIMER_REAL, 2)
ray_actors.ANSWER_S = 4
try:
    with ray_actors.ray_at(sys.argv[1], lambda: False):
        pass
except RayUnavailable as error:
    print(error, flush=True)
"""


def test_a_server_that_is_no_ray_is_given_up_and_signals_are_handled_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        answer = subprocess.run(
            [sys.executable, "-c", CONNECT, address], capture_output=True, text=True, check=False, timeout=100
        )
    # Ray's client may crash while its process exits, after the program's end.
    assert answer.returncode in (0, -signal.SIGABRT, -signal.SIGSEGV), answer.stderr
    handled, sentence = answer.stdout.splitlines()
    assert handled == "a signal was handled"
    assert sentence.startswith(
        f"no Ray answers at {address} (SNF_RAY_ADDRESS) within 4 s; Ray takes a loopback address"
    )
