"""Checks that no unfinished job uses a model or dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from app.http.errors import Problem
from worker.errors import JobNotFound
from worker.jobs.record import Job
from worker.jobs.store import JobStore


def refuse_in_use(jobs: JobStore, uses: Callable[[Job], bool], slug: str, title: str, name: str) -> None:
    """Raise a 409 ``Problem`` if ``uses(job)`` is true for any job that has not ended; otherwise return None.

    Args:
        jobs: All jobs.
        uses: Whether a job uses the resource.
        slug: Type of the problem.
        title: Title of the problem.
        name: Name of the resource, which is in the dataset, model or parameters of each job that uses it.

    Raises:
        Problem: A job uses the resource.
        BrokerDown: The job store does not answer.
    """
    job = next(filter(uses, _unfinished(jobs, name)), None)
    if job is not None:
        raise Problem(
            409,
            slug,
            title,
            f"job {job.id} is {job.status.value} and uses {name}; cancel it first or wait for its end",
            extensions={"job": job.id},
        )


def _unfinished(jobs: JobStore, name: str) -> Iterator[Job]:
    for job_id in jobs.unfinished(name):
        with suppress(JobNotFound):  # it was cancelled and removed meanwhile
            job = jobs.get(job_id)
            if not job.finished:
                yield job
