"""An evaluation in real processes: what a cancelled one has scored is not scored again."""

import json
from pathlib import Path

import pytest

from snf_client.schemas.evaluations import EvaluationReport
from snf_models.datasets import DatasetStore, Source
from snf_worker.jobs.record import Job, Queue
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor
from snf_worker.settings import Settings
from tests.end_to_end.support.processes import halted, told_to_stop
from tests.models.datasets.upload_files import pngs, zipped
from tests.support.fork_server import ForkServer
from tests.worker.support.helpers import new_job, until
from tests.worker.support.scoring import MODEL, in_background

AGAINST = [f"lot-{number}" for number in range(6)]
"""So many sets that there are some left when the attempt has been stopped after the first one."""


def evaluating(retry_of: str | None = None) -> Job:
    # As earlier versions had it.
    parameters = {"against": AGAINST, "images": 40, "thorough": True}
    return new_job(type="evaluate", queue=Queue.SCORE, model=MODEL, parameters=parameters, retry_of=retry_of)


@pytest.mark.usefixtures("digits")
def test_a_cancelled_one_is_gone_on_with_by_its_retry(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer, tmp_path: Path
) -> None:
    archive = tmp_path / "lot.zip"
    archive.write_bytes(zipped(pngs(20)))
    for name in AGAINST:
        DatasetStore(settings.datasets_dir).create(name, [Source(archive, archive.name)])
    job, _ = store.create(evaluating())
    thread, outcomes = in_background(real, job)
    journal = settings.jobs_dir / job.id / "events.jsonl"
    until(lambda: outcomes or (journal.exists() and '"checkpoint"' in journal.read_text()), 120, every=0.005)
    # It scores nothing until it is asked to end, so that there are sets left for its retry.
    with halted(forked.pids[str(settings.jobs_dir / job.id)]) as attempt:
        store.request_cancel(job.id)
        until(lambda: told_to_stop(attempt), 60)
    thread.join(60)
    assert outcomes == [Outcome.CANCELLED]
    assert store.get(job.id).checkpoint_step
    again, _ = store.create(evaluating(retry_of=job.id))
    assert real.run(again.queue) is Outcome.SUCCEEDED
    folder = settings.jobs_dir / again.id
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    messages = [event.get("message") for event in events]
    assert f"goes on from the scores of job {job.id}" in messages
    assert "verdicts with gradients have been removed: the model is evaluated without them" in messages
    result = store.get(again.id).result or {}
    assert list(result["auroc"]) == AGAINST
    report = EvaluationReport.model_validate_json((folder / "report.json").read_bytes())
    assert {images.name: images.results[0].auroc for images in report.sets} == result["auroc"]
    assert not (folder / "sets").exists()
