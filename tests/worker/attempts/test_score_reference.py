"""Jobs on datasets by reference whose location callers may no longer name."""

from pathlib import Path

import pytest

from snf_models.datasets import DatasetStore
from snf_models.locations.location import Location
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer
from tests.support.referenced import digits, put, refer_to
from tests.worker.support.scoring import scoring


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
