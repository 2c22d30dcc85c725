"""Bulk scoring on a Ray cluster of two nodes of a core each, whose processes are on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from models.bulk.engines import bulk_engine
from models.bulk.local_engine import LocalEngine
from models.bulk.output import Output, open_output
from models.bulk.part import Stopped
from models.bulk.plan import BulkPlan
from models.bulk.ray_engine import RayEngine
from models.bulk.work import BulkWork
from models.errors import EngineUnavailable, PartFailed, RayUnavailable
from models.locations.location import Location
from models.model_files import ModelFiles
from models.scorer import Scorer
from models.scoring.options import EngineOptions
from tests.support.ray_cluster import two_nodes
from tests.support.slow_images import SlowImages

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

PART = 25
COUNT = 600
"""Images of mnist-mini."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster whose second node may be removed."""
    with two_nodes() as nodes:
        yield nodes


def work_of(artifact: Path, folder: Path, **slowness: Any) -> BulkWork:
    images = SlowImages(folder / "journal", **slowness)
    scorer = Scorer.load(artifact)
    source = images.open(scorer.preprocessing)
    plan = BulkPlan(
        model="digits:1",
        weights_sha256=scorer.log_det_digest,
        dataset="mnist-mini",
        source_digest=source.digest,
        alpha=scorer.default_alpha,
        count=source.count,
        images_per_part=PART,
    )
    output = open_output(Location.parse(str(folder / "out")), plan)
    return BulkWork(output, ModelFiles(artifact, None, EngineOptions(threads=1)), images)


def contents(output: Output) -> dict[str, bytes]:
    folder = output.location.local_path
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the local engine: plan and parts."""
    work = work_of(artifact, tmp_path_factory.mktemp("local"))
    LocalEngine().run(work, work.output.missing(), lambda: False, lambda _images: None)
    return contents(work.output)


def test_rows_are_those_of_the_local_engine_also_where_a_process_is_killed_and_a_node_is_lost(
    cluster: Cluster, artifact: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    work = work_of(artifact, tmp_path, seconds=0.3)
    for index in (0, 7):
        work.output.part(index).write(expected[f"part-{index:06d}.parquet"])
    journal = SlowImages(tmp_path / "journal")
    scored: list[int] = []

    def advance(images: int) -> None:
        scored.append(images)
        if len(scored) == 3:
            os.kill(journal.readers()[-1][1], signal.SIGKILL)
        # The third process replaces the one that was killed.
        if len({process for _, process in journal.readers()}) == 3 and cluster.worker_nodes:
            [second] = cluster.worker_nodes
            cluster.remove_node(second, allow_graceful=False)

    try:
        RayEngine(cluster.address).run(work, work.output.missing(), lambda: False, advance)
        assert not cluster.worker_nodes, "the node was lost meanwhile"
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    assert contents(work.output) == expected, "each file to the bit, and no other file"
    assert scored == [PART] * (COUNT // PART - 2)
    readers = journal.readers()
    assert {start // PART for start, _ in readers} == set(range(COUNT // PART)) - {0, 7}
    assert len(readers) > len(scored), "what the dead processes had begun was done again"
    assert work.output.finish().images == COUNT


def test_stopping_ends_the_actors_and_leaves_whole_parts(
    cluster: Cluster, artifact: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    work = work_of(artifact, tmp_path, seconds=0.5)
    scored: list[int] = []
    with pytest.raises(Stopped):
        RayEngine(cluster.address).run(work, work.output.missing(), lambda: bool(scored), scored.append)
    begun = SlowImages(tmp_path / "journal").readers()
    assert len(begun) < COUNT // PART
    time.sleep(1.5)
    assert SlowImages(tmp_path / "journal").readers() == begun
    there = contents(work.output)
    assert there == {name: expected[name] for name in there}
    assert len(there) >= 2


def test_an_error_in_a_part_names_its_images(cluster: Cluster, artifact: Path, tmp_path: Path) -> None:
    work = work_of(artifact, tmp_path, fail_at=3 * PART)
    with pytest.raises(PartFailed, match=r"^images 75 to 99: .*: deleted meanwhile$"):
        RayEngine(cluster.address).run(work, work.output.missing(), lambda: False, lambda _images: None)
    assert not work.output.has(3)


def test_the_engine_needs_an_address() -> None:
    with pytest.raises(EngineUnavailable, match="the engine ray needs a cluster: set SNF_RAY_ADDRESS to its HOST:PORT"):
        bulk_engine("ray")


def test_a_cluster_without_room_or_answer_is_a_sentence(cluster: Cluster, artifact: Path, tmp_path: Path) -> None:
    work = work_of(artifact, tmp_path)
    wide = BulkWork(work.output, ModelFiles(artifact, None, EngineOptions(threads=8)), work.images)
    with pytest.raises(RayUnavailable, match="expected a node of 8 cores in the Ray cluster, got 2 nodes without"):
        RayEngine(cluster.address).run(wide, [0], lambda: False, lambda _images: None)
    with pytest.raises(RayUnavailable, match=r"cannot reach Ray at 127\.0\.0\.1:1 \(SNF_RAY_ADDRESS\): .*refused"):
        RayEngine("127.0.0.1:1").run(work, [0], lambda: False, lambda _images: None)
