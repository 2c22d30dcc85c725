"""Unfinished jobs, and checks that no unfinished job uses a model or dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from app.http.errors import Problem
from worker.jobs.record import TERMINAL, Job, Status
from worker.jobs.store import JobStore

PAGE = 200


def active_jobs(jobs: JobStore) -> Iterator[Job]:
    """Yield every job that is queued, starting, running or paused; raise ``BrokerDown`` if Redis does not answer."""
    for status in Status:
        cursor = None
        while status not in TERMINAL:
            page = jobs.list(cursor, PAGE, status)
            yield from page.jobs
            cursor = page.next
            if cursor is None:
                break


def refuse_in_use(jobs: JobStore, uses: Callable[[Job], bool], slug: str, title: str, resource: str) -> None:
    """Raise a 409 ``Problem`` if ``uses(job)`` is true for any job that has not ended; otherwise return None.

    Args:
        jobs: All jobs.
        uses: Whether a job uses the resource.
        slug: Type of the problem.
        title: Title of the problem.
        resource: Name of the resource for the problem's detail.

    Raises:
        Problem: A job uses the resource.
        BrokerDown: The job store does not answer.
    """
    job = next(filter(uses, active_jobs(jobs)), None)
    if job is not None:
        raise Problem(
            409,
            slug,
            title,
            f"job {job.id} is {job.status.value} and uses {resource}; cancel it first or wait for its end",
            extensions={"job": job.id},
        )
