"""The job that a path names, and its folder: an id that is not one never becomes part of a file's path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from fastapi import Depends

from app.http.dependencies import JobStoreDep, SettingsDep
from app.jobs.endpoints import JOB_ID, JobId
from worker.errors import BrokerDown, JobNotFound
from worker.jobs.record import Job
from worker.settings import Settings


def folder_of(job_id: str, settings: Settings) -> Path:
    """The folder of a job, whether it is there yet or not; raises `JobNotFound` where no job can have this id."""
    if re.fullmatch(JOB_ID, job_id) is None:
        raise JobNotFound(f"no job has the id {job_id}")
    return settings.jobs_dir / job_id


def existing_job(job_id: JobId, jobs: JobStoreDep) -> Job:
    """The record of a job; raises `JobNotFound`, `BrokerDown`."""
    return jobs.get(job_id)


def followed_job(job_id: JobId, jobs: JobStoreDep, settings: SettingsDep) -> str:
    """The id of a job whose journal may be followed; raises `JobNotFound`, `BrokerDown` where nobody can tell."""
    folder = folder_of(job_id, settings)
    try:
        jobs.get(job_id)
    except BrokerDown:
        # Browsers never come back after a 503, and the journal goes on without the job store.
        if not folder.is_dir():
            raise
    return job_id


ExistingJob = Annotated[Job, Depends(existing_job)]
FollowedJob = Annotated[str, Depends(followed_job)]
