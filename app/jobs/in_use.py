"""Jobs that are not over, and what must not be deleted under their hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from app.http.errors import Problem
from worker.jobs.record import TERMINAL, Job, Status
from worker.jobs.store import JobStore

PAGE = 200


def jobs_in_hand(jobs: JobStore) -> Iterator[Job]:
    """All jobs that are not over; raises `BrokerDown`."""
    for status in Status:
        cursor = None
        while status not in TERMINAL:
            page = jobs.list(cursor, PAGE, status)
            yield from page.jobs
            cursor = page.next
            if cursor is None:
                break


def refuse_in_use(jobs: JobStore, uses: Callable[[Job], bool], slug: str, title: str, what: str) -> None:
    """Raises a 409 problem while a job that is not over uses `what`; `BrokerDown` where nobody can tell."""
    job = next(filter(uses, jobs_in_hand(jobs)), None)
    if job is not None:
        raise Problem(
            409,
            slug,
            title,
            f"job {job.id} is {job.status.value} and uses {what}; cancel it first or wait for its end",
            extensions={"job": job.id},
        )
