"""Results of finished jobs of every type, as the service answers them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from snf_client.schemas.base import JobType
from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import REPORT_HTML, REPORT_JSON, Job, Queue, Status, new_job_id
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings
from tests.support.service_settings import client_of
from tests.worker.support.helpers import take

REF = {"model": "digits", "version": 2, "ref": "digits:2"}

pytestmark = pytest.mark.usefixtures("no_shipped_models")


def finished(settings: Settings, type: JobType, result: dict[str, Any], **files: str) -> str:
    """Store a job that has succeeded and its files; return the path of its result."""
    job = Job(
        id=new_job_id(),
        type=type,
        queue=Queue.SCORE,
        model="digits:2",
        dataset="mnist-mini",
        created_at=datetime.now(UTC),
    )
    store = JobStore(redis_client(settings), settings.key_prefix)
    store.create(job)
    store.finish(job.id, take(store, job, "worker", 30), Status.SUCCEEDED, {"result": result})
    folder = settings.jobs_dir / job.id
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return f"/v1/jobs/{job.id}/result"


def test_every_type_has_its_result(settings: Settings) -> None:
    trained = finished(settings, "train", REF)
    calibrated = finished(settings, "calibrate", REF | {"calibration": 3, "smallest_p": 0.01})
    evaluated = finished(settings, "evaluate", REF, **{REPORT_JSON: '{"sets": []}', REPORT_HTML: "<!DOCTYPE html>"})
    scored = finished(settings, "score", REF, **{"scores.parquet": "PAR1"})
    with client_of(settings) as client:
        answer = client.get(trained).json()
        assert (answer["ref"], answer["links"]["score"]) == ("digits:2", "/v1/models/digits:2/score")
        answer = client.get(calibrated).json()
        assert (answer["calibration"], answer["smallest_p"]) == (3, 0.01)
        assert answer["links"]["calibration"] == "/v1/models/digits:2/calibrations/3"

        assert client.get(evaluated).json() == {"sets": []}
        for page in (
            client.get(evaluated, headers={"accept": "text/html,application/xhtml+xml;q=0.9"}),
            client.get(evaluated, params={"format": "html"}),
        ):
            assert page.text == "<!DOCTYPE html>"
            assert page.headers["content-type"].startswith("text/html")
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert client.get(evaluated, params={"format": "pdf"}).status_code == 422

        at_location = client.get(finished(settings, "score", {"images": 5, "output": "s3://lots/scores"}))
        assert (at_location.status_code, at_location.json()["output"]) == (409, "s3://lots/scores")
        assert "has written its scores to s3://lots/scores" in at_location.json()["detail"]

        table = client.get(scored)
        assert (table.content, table.headers["content-type"]) == (b"PAR1", "application/vnd.apache.parquet")
