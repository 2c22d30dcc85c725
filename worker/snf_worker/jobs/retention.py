import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from snf_models.disk import new_folder
from snf_worker.errors import JobInUse, JobNotFound
from snf_worker.jobs.store import JobStore
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

_AT_ONCE = 50


def drop_training_files(folder: Path) -> None:
    """Delete the checkpoints and the trained model in a job's folder once the registry has a copy."""
    for name in ("checkpoints", "artifact"):
        shutil.rmtree(folder / name, ignore_errors=True)


def adopt_files(source: Path, target: Path) -> bool:
    """Copy a folder by hard links; return False if ``source`` is missing or ``target`` exists."""
    if target.exists() or not source.is_dir():
        return False
    with new_folder(target) as folder:
        # Hard links: the files are never changed, and those of the earlier job may be removed at any time.
        shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
    return True


def adopt_earlier(store: JobStore, folder: Path, retry_of: str | None, name: str) -> str | None:
    """Hard-link a subfolder from the newest of the retried jobs that has it; return that job's id, or None."""
    while retry_of is not None and not (folder / name).exists():
        if adopt_files(folder.parent / retry_of / name, folder / name):
            return retry_of
        try:
            retry_of = store.get(retry_of).retry_of
        except JobNotFound:
            return None
    return None


def remove_job(store: JobStore, settings: Settings, job_id: str) -> None:
    """Delete an ended job's record, then its files; a later sweep deletes files that cannot be deleted now."""
    store.remove(job_id)
    _remove_files(store, settings, job_id)


def _remove_files(store: JobStore, settings: Settings, job_id: str) -> None:
    """Delete the files of a removed job. Two calls at once do no harm."""
    try:
        _delete_folder(settings, job_id)
    except OSError as error:
        log.warning("the files of the removed job %s cannot be deleted yet: %s", job_id, error)
        return
    store.cleared(job_id)


def _delete_folder(settings: Settings, job_id: str) -> None:
    folder = settings.jobs_dir / job_id
    # Renamed first: no reader finds half of the files.
    with suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".{job_id}.{uuid4().hex}.removed"))
    for removed in folder.parent.glob(f".{job_id}.*"):
        with suppress(FileNotFoundError):  # another call removes it
            shutil.rmtree(removed)


def clear_removed(store: JobStore, settings: Settings) -> None:
    """Try again to delete the files of jobs whose records are already deleted."""
    for job_id in store.removed():
        _remove_files(store, settings, job_id)


def sweep_old_jobs(store: JobStore, settings: Settings) -> int:
    """Delete at most 50 jobs that ended over ``retention_days`` ago and are not in use; return their number."""
    ids = store.finished_before(settings.retention_days * 24 * 3600, limit=_AT_ONCE)
    removed = 0
    for job_id in ids:
        try:
            store.remove(job_id, because_old=True)
        except (JobNotFound, JobInUse) as problem:
            log.info("job %s is not removed: %s", job_id, problem.detail)
            continue
        _remove_files(store, settings, job_id)
        removed += 1
        log.info("job %s ended more than %g days ago and was removed", job_id, settings.retention_days)
    return removed
