"""FastAPI dependencies that look up a job by the id in the URL path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from fastapi import Depends

from app.http.dependencies import JobStoreDep, SettingsDep
from app.http.router import in_job_store_threads
from app.jobs.endpoints import JOB_ID, JobId
from worker.errors import BrokerDown, JobNotFound
from worker.jobs.record import Job
from worker.settings import Settings


def folder_of(job_id: str, settings: Settings) -> Path:
    """Return the path of a job's folder, which may not exist yet; raise ``JobNotFound`` for a malformed id.

    An id of another form never becomes part of a path.
    """
    if re.fullmatch(JOB_ID, job_id) is None:
        raise JobNotFound(f"no job has the id {job_id}")
    return settings.jobs_dir / job_id


def existing_job(job_id: JobId, jobs: JobStoreDep) -> Job:
    """Return the record of the job with the id in the URL; raise ``JobNotFound`` if there is none."""
    return jobs.get(job_id)


def followed_job(job_id: JobId, jobs: JobStoreDep, settings: SettingsDep) -> str:
    """Check that the events of a job can be streamed, and return the job's id.

    The events can be read from the job's folder even while the job store is down.

    Raises:
        JobNotFound: The job does not exist.
        BrokerDown: The job store does not answer, and there is no journal of the job.
    """
    folder = folder_of(job_id, settings)
    try:
        jobs.get(job_id)
    except BrokerDown:
        # Browsers do not reconnect after a 503, and the journal does not need the job store.
        if not folder.is_dir():
            raise
    return job_id


ExistingJob = Annotated[Job, Depends(in_job_store_threads(existing_job))]
FollowedJob = Annotated[str, Depends(in_job_store_threads(followed_job))]
