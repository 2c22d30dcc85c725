"""A comparison of families in real processes: whoever dies, finished phases are kept, and there is one result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

from models.recommendation.record import RecommendationRecord
from models.registry.registry import Registry
from tests.support.fork_server import ForkServer
from tests.worker.support.helpers import until
from worker.jobs.record import Job, new_job_id
from worker.jobs.store import JobStore
from worker.queues import Queue
from worker.runtime.supervisor import Outcome, Supervisor
from worker.settings import Settings

PARAMETERS = {"image_size": 27, "feature_side": 64, "shapes": ["missing-part"], "minutes": 5}
"""A size that no pixel flow takes: a comparison of seconds."""


def test_a_killed_attempt_is_gone_on_with_and_the_record_is_kept(
    store: JobStore, settings: Settings, stopping: threading.Event, forked: ForkServer, backbones: Path
) -> None:
    shutil.copytree(backbones, settings.backbones_dir)
    real = Supervisor(store, settings, stopping)
    job, _ = store.create(
        Job(
            id=new_job_id(),
            type="recommend",
            queue=Queue.TRAIN_CPU,
            dataset="mnist-mini",
            parameters=PARAMETERS,
            created_at=datetime.now(UTC),
        )
    )
    folder = settings.jobs_dir / job.id
    fit = folder / "phases" / "features" / "fit.json"
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(real.run(job.id)), daemon=True)
    thread.start()
    until(lambda: fit.exists() or outcomes, 120, every=0.005)
    os.kill(forked.pids[str(folder)], signal.SIGKILL)
    thread.join(60)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    stored = json.loads(fit.read_text())

    assert real.run(job.id) is Outcome.SUCCEEDED
    done = store.get(job.id)
    record = RecommendationRecord.model_validate_json((folder / "recommendation.json").read_bytes())
    assert (record.job, record.dataset, record.proposal) == (job.id, "mnist-mini", "features")
    assert record.families[0].fit_seconds == stored["seconds"]  # the fit of the killed attempt
    assert done.result == {
        "proposal": "features",
        "preset": "snf-features",
        "reasons": list(record.reasons),
        "seconds": record.seconds,
    }
    assert (done.progress["fraction"], done.model) == (1, "")
    assert not (folder / "phases").exists()
    assert "mnist-mini" not in Registry(settings.registry_dir).names()
