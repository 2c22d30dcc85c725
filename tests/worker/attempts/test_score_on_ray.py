"""Scoring jobs that a Ray cluster runs: resumed, cancelled, and without an answer of the cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from snf_models.bulk.output import stored_output
from snf_models.bulk.tables import merge_parts
from snf_models.locations.location import Location
from snf_models.registry.registry import Registry
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer
from tests.support.ray_cluster import RayCluster
from tests.support.trained import barely_trained
from tests.worker.support import slow_score
from tests.worker.support.helpers import alive, until
from tests.worker.support.scoring import MODEL, in_background, scoring

pytestmark = pytest.mark.usefixtures("digits")

IMAGES = 600
PART = 25


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """The engine that starts in the least time in processes of Ray: a model compiled before is opened without torch."""
    below = (Location.parse(str(tmp_path)).url,)
    return settings.model_copy(update={"allowed_locations": below, "engine": "openvino"})


@pytest.fixture
def digits(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A model that OpenVINO can score."""
    Registry(settings.registry_dir).publish(barely_trained(tmp_path_factory), "digits")


@pytest.fixture
def on_ray(store: JobStore, settings: Settings, small_ray_cluster: RayCluster, stopping: threading.Event) -> Supervisor:
    """A supervisor whose jobs with an output are run by Ray, and read their images slowly."""
    settings = settings.model_copy(update={"ray_address": small_ray_cluster.address})
    return Supervisor(store, settings, stopping, slow_score.command)


def job_below(folder: Path) -> Job:
    return scoring(
        dataset="mnist-mini", parameters={"images_per_part": PART, "output": Location.parse(str(folder)).url}
    )


@pytest.mark.timeout(300)
def test_a_killed_attempt_goes_on_from_its_parts_and_has_the_rows_of_the_embedded_one(
    on_ray: Supervisor, real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer, tmp_path: Path
) -> None:
    whole, _ = store.create(scoring(dataset="mnist-mini", parameters={"images_per_part": 2 * PART}))
    assert real.run(whole.queue) is Outcome.SUCCEEDED

    out = tmp_path / "scores"
    job, _ = store.create(job_below(out))
    thread, outcomes = in_background(on_ray, job)
    until(lambda: any(out.glob("part-*")), 90)
    os.kill(forked.pids[str(settings.jobs_dir / job.id)], signal.SIGKILL)
    thread.join(60)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    journal = slow_score.journal(settings.jobs_dir / job.id)
    until(lambda: not any(alive(process) for _, process in journal.readers()), 30)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 0 < len(kept) < IMAGES // PART

    assert on_ray.run(job.queue) is Outcome.SUCCEEDED
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items() >= kept.items()
    stored = stored_output(Location.parse(str(out)))
    merge_parts(stored.files(), tmp_path / "merged.parquet", stored.plan.metadata)
    assert (tmp_path / "merged.parquet").read_bytes() == (settings.jobs_dir / whole.id / "scores.parquet").read_bytes()
    done = store.get(job.id)
    assert done.result is not None
    assert (done.result["model"], done.result["images"], done.result["output"]) == (MODEL, IMAGES, stored.location.url)
    assert done.checkpoint_step == IMAGES


@pytest.mark.timeout(300)
def test_cancelling_ends_the_work_of_the_cluster(
    on_ray: Supervisor,
    store: JobStore,
    settings: Settings,
    forked: ForkServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(slow_score.WITHOUT_MODEL, "yes")
    out = tmp_path / "scores"
    job, _ = store.create(job_below(out))
    thread, outcomes = in_background(on_ray, job)
    until(lambda: any(out.glob("part-*")), 90)
    store.request_cancel(job.id)
    thread.join(60)
    assert outcomes == [Outcome.CANCELLED]
    assert store.get(job.id).status is Status.CANCELLED
    journal = slow_score.journal(settings.jobs_dir / job.id)
    until(lambda: not any(alive(process) for _, process in journal.readers()), 30)
    begun, parts = journal.readers(), set(out.glob("part-*"))
    assert len(parts) < IMAGES // PART
    time.sleep(3 * slow_score.SECONDS)
    assert (journal.readers(), set(out.glob("part-*"))) == (begun, parts)


def test_a_cluster_that_does_not_answer_is_tried_again_and_named(
    store: JobStore, settings: Settings, stopping: threading.Event, forked: ForkServer, tmp_path: Path
) -> None:
    nowhere = settings.model_copy(update={"ray_address": "127.0.0.1:9"})
    job, _ = store.create(job_below(tmp_path / "scores"))
    assert Supervisor(store, nowhere, stopping).run(job.queue) is Outcome.QUEUED_AGAIN
    error = store.get(job.id).error
    assert error is not None
    assert error["type"] == "engine-unavailable"
    assert error["detail"].startswith("cannot reach Ray at 127.0.0.1:9 (SNF_RAY_ADDRESS): ")
    assert not list((tmp_path / "scores").glob("part-*")), "no other engine took its place"
