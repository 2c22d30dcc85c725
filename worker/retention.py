"""What is kept of jobs: a registered model's training files go at once, a job that is over after a while."""

import logging
import shutil
from pathlib import Path

from worker.settings import Settings
from worker.store import JobStore

log = logging.getLogger(__name__)

_AT_ONCE = 50


def drop_training_files(folder: Path) -> None:
    """Removes checkpoints and artifact of a job whose model is registered: the registry has its own copy."""
    for name in ("checkpoints", "artifact"):
        shutil.rmtree(folder / name, ignore_errors=True)


def sweep_old_jobs(store: JobStore, settings: Settings) -> int:
    """Removes records and folders of jobs that ended longer ago than the retention; answers how many."""
    ids = store.finished_before(settings.retention_days * 24 * 3600, limit=_AT_ONCE)
    for job_id in ids:
        # The record last: a sweep that dies between the two is taken up by the next one.
        folder = settings.jobs_dir / job_id
        if folder.exists():
            shutil.rmtree(folder)
        store.forget(job_id)
        log.info("job %s ended more than %g days ago and was removed", job_id, settings.retention_days)
    return len(ids)
