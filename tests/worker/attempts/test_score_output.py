"""Bulk scoring to a location: every image once, although attempts are killed and the server fails requests."""

import os
import signal
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from snf_models.bulk.output import stored_output
from snf_models.bulk.tables import merge_parts
from snf_models.datasets import DatasetStore
from snf_models.locations.location import Location
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer
from tests.support.referenced import digits, put, refer_to
from tests.support.s3 import S3Server, faulty_server
from tests.worker.support.scoring import IMAGES, MODEL, await_part, in_background, scoring, unfinished

pytestmark = pytest.mark.usefixtures("digits")

PARTS = 12


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"allowed_locations": ("s3://killed", "s3://gone")})


def job_files(settings: Settings, job: Job) -> set[str]:
    """Names of all files in the folder of a job."""
    return {path.name for path in (settings.jobs_dir / job.id).rglob("*") if path.is_file()}


@pytest.mark.timeout(300)
def test_an_attempt_that_is_killed_loses_and_doubles_nothing_at_its_output(
    real: Supervisor,
    store: JobStore,
    settings: Settings,
    forked: ForkServer,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = store.create(scoring())
    assert real.run(whole.queue) is Outcome.SUCCEEDED
    expected = (settings.jobs_dir / whole.id / "scores.parquet").read_bytes()

    place = s3_server.bucket("killed").child("scores/lot-7")
    output = {"output": place.url}
    with faulty_server(s3_server) as (faulty, proxy):
        for name, value in faulty.environment.items():
            monkeypatch.setenv(name, value)
        cut, _ = store.create(scoring(parameters={"images_per_part": 50} | output))
        with unfinished(store, cut):
            thread, outcomes = in_background(real, cut)
            await_part(store, cut)
            os.kill(forked.pids[str(settings.jobs_dir / cut.id)], signal.SIGKILL)
            thread.join(60)
        assert outcomes == [Outcome.QUEUED_AGAIN]
        assert 0 < len(stored_output(place).missing()) < PARTS
        assert real.run(cut.queue) is Outcome.SUCCEEDED
        assert proxy.failed.total() > 0
        # No attempt lists the place for each part: two do so at their start, one before its end, and this test.
        assert proxy.requests["GET"] < 10 * PARTS
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    stored = stored_output(place)
    done = store.get(cut.id)
    assert done.result == output | {
        "model": MODEL,
        "images": IMAGES,
        "errors": 0,
        "anomalies": (store.get(whole.id).result or {})["anomalies"],
        "plan": stored.plan.digest,
    }
    rows = pa.concat_tables(map(parquet.read_table, stored.files())).to_pylist()
    assert Counter(row["path"] for row in rows).most_common(1)[0][1] == 1
    merge_parts(stored.files(), tmp_path / "merged.parquet", stored.plan.metadata)
    assert (tmp_path / "merged.parquet").read_bytes() == expected
    assert not {name for name in job_files(settings, cut) if name.endswith(".parquet")}

    damaged = stored.part(3)
    damaged.write(damaged.read()[:-9])
    again, _ = store.create(scoring(parameters={"images_per_part": 50} | output))
    assert real.run(again.queue) is Outcome.SUCCEEDED
    merge_parts(stored.files(), tmp_path / "merged.parquet", stored.plan.metadata)
    assert (tmp_path / "merged.parquet").read_bytes() == expected

    other, _ = store.create(scoring(parameters={"alpha": 0.05} | output))
    assert real.run(other.queue) is Outcome.FAILED
    failed = store.get(other.id)
    assert failed.status is Status.FAILED
    assert failed.error is not None
    assert failed.error["type"] == "plan-differs"
    assert f"alpha {1 / 51:g}, 50 a part, computed by" in failed.error["detail"]
    assert stored_output(place).missing() == []


def test_a_server_that_is_gone_repeats_the_attempt(
    real: Supervisor, store: JobStore, forked: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = S3Server("http://127.0.0.1:9")
    for name, value in gone.environment.items():
        monkeypatch.setenv(name, value)
    job, _ = store.create(scoring(parameters={"output": "s3://gone/scores"}))
    assert real.run(job.queue) is Outcome.QUEUED_AGAIN
    error = store.get(job.id).error
    assert error is not None
    assert error["type"] == "location-unavailable"
    assert "s3://gone/scores" in error["detail"]


@pytest.mark.usefixtures("digits")
def test_a_job_reads_no_location_that_callers_may_no_longer_name(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer, tmp_path: Path
) -> None:
    lots = Location((tmp_path / "lots").as_uri())
    put(lots, "folder", digits(12))
    datasets = DatasetStore(settings.datasets_dir)
    refer_to(datasets, "by-request", lots, by_request=True)
    refer_to(datasets, "by-command", lots)

    refused, _ = store.create(scoring(dataset="by-request"))
    assert real.run(refused.queue) is Outcome.FAILED
    error = store.get(refused.id).error
    assert error is not None
    assert error["type"] == "location-refused"
    assert "may not be named over HTTP: expected a location below one of SNF_ALLOWED_LOCATIONS" in error["detail"]
    allowed, _ = store.create(scoring(dataset="by-command"))
    assert real.run(allowed.queue) is Outcome.SUCCEEDED
