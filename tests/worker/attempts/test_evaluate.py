"""An evaluation in real processes: what a cancelled one has scored is not scored again."""

import json
import threading
from datetime import UTC, datetime

import pytest

from models.evaluation.schema import EvaluationReport
from tests.worker.support.helpers import until
from worker.jobs.record import Job, new_job_id
from worker.jobs.store import JobStore
from worker.queues import Queue
from worker.runtime.supervisor import Outcome, Supervisor
from worker.settings import Settings


def evaluating(retry_of: str | None = None) -> Job:
    return Job(
        id=new_job_id(),
        type="evaluate",
        queue=Queue.SCORE,
        model="mnist-snf-glow:1",
        dataset="mnist-mini",
        parameters={"corruptions": True, "images": 40},
        retry_of=retry_of,
        created_at=datetime.now(UTC),
    )


@pytest.mark.usefixtures("forked")
def test_a_cancelled_one_is_gone_on_with_by_its_retry(
    store: JobStore, settings: Settings, stopping: threading.Event
) -> None:
    real = Supervisor(store, settings, stopping)
    job, _ = store.create(evaluating())
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(real.run(job.id)), daemon=True)
    thread.start()
    until(lambda: store.get(job.id).checkpoint_step or outcomes, 120)
    store.request_cancel(job.id)
    thread.join(60)
    assert outcomes == [Outcome.CANCELLED]
    assert store.get(job.id).checkpoint_step
    again, _ = store.create(evaluating(retry_of=job.id))
    assert real.run(again.id) is Outcome.SUCCEEDED
    folder = settings.jobs_dir / again.id
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert f"goes on from the scores of job {job.id}" in [event.get("message") for event in events]
    result = store.get(again.id).result or {}
    assert len(result["auroc"]) == 40
    report = EvaluationReport.model_validate_json((folder / "report.json").read_bytes())
    assert {images.name: images.results[0].auroc for images in report.sets} == result["auroc"]
    assert not (folder / "sets").exists()
