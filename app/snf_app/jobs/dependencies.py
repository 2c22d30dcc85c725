from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from fastapi import Depends

from snf_app.http.router import in_job_store_threads
from snf_app.jobs.endpoints import JOB_ID, JobId
from snf_app.state import JobStoreDep, SettingsDep
from snf_worker.errors import BrokerDown, JobNotFound
from snf_worker.jobs.record import Job
from snf_worker.settings import Settings


def folder_of(job_id: str, settings: Settings) -> Path:
    """Return a job's folder, which may not exist yet; raise ``JobNotFound``, so that no other text gets into a path."""
    if re.fullmatch(JOB_ID, job_id) is None:
        raise JobNotFound(f"no job has the id {job_id}")
    return settings.jobs_dir / job_id


def existing_job(job_id: JobId, jobs: JobStoreDep) -> Job:
    return jobs.get(job_id)


def followed_job(job_id: JobId, jobs: JobStoreDep, settings: SettingsDep) -> str:
    """Return the id of a job whose events can be read, even while the job store is down if there is a journal."""
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
