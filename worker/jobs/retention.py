"""What is kept of jobs: a registered model's training files go at once, a job that is over after a while."""

import logging
import os
import shutil
from pathlib import Path

from models.atomic_files import new_folder
from worker.errors import JobNotFound
from worker.jobs.store import JobStore
from worker.settings import Settings

log = logging.getLogger(__name__)

_AT_ONCE = 50


def drop_training_files(folder: Path) -> None:
    """Removes checkpoints and artifact of a job whose model is registered: the registry has its own copy."""
    for name in ("checkpoints", "artifact"):
        shutil.rmtree(folder / name, ignore_errors=True)


def adopt_files(source: Path, target: Path) -> bool:
    """Gives a job a folder of the job that it tries again; False where there is nothing to give or it has its own."""
    if target.exists() or not source.is_dir():
        return False
    with new_folder(target) as folder:
        # Links: the files are never written again, and the old job's may be removed at any time.
        shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
    return True


def adopt_earlier(store: JobStore, folder: Path, retry_of: str | None, name: str) -> str | None:
    """Gives a job the folder `name` of the newest job that it tries again and that has it; answers that job's id.

    Jobs that were tried again before they began have none. Raises `BrokerDown`.
    """
    while retry_of is not None and not (folder / name).exists():
        if adopt_files(folder.parent / retry_of / name, folder / name):
            return retry_of
        try:
            retry_of = store.get(retry_of).retry_of
        except JobNotFound:
            return None
    return None


def sweep_old_jobs(store: JobStore, settings: Settings) -> int:
    """Removes records and folders of jobs that ended longer ago than the retention; answers how many."""
    ids = store.finished_before(settings.retention_days * 24 * 3600, limit=_AT_ONCE)
    removed = 0
    for job_id in ids:
        # The record last: a sweep that dies between the two is taken up by the next one.
        folder = settings.jobs_dir / job_id
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            log.warning("job %s cannot be removed yet: %s", job_id, error)
            continue
        store.forget(job_id)
        removed += 1
        log.info("job %s ended more than %g days ago and was removed", job_id, settings.retention_days)
    return removed
