from __future__ import annotations

from collections.abc import Callable

from snf_app.http.errors import Problem
from snf_worker.jobs.record import Job
from snf_worker.jobs.store import JobStore


def refuse_used_version(jobs: JobStore, name: str, version: int) -> None:
    """Raise a 409 ``Problem`` if an unfinished job uses a model version."""
    ref = f"{name}:{version}"
    refuse_in_use(jobs, lambda job: job.model == ref, "version-in-use", "The version is in use", ref)


def refuse_used_model(jobs: JobStore, name: str) -> None:
    """Raise a 409 ``Problem`` if an unfinished job uses or trains a model."""
    refuse_in_use(jobs, lambda job: job.model.partition(":")[0] == name, "model-in-use", "The model is in use", name)


def refuse_in_use(jobs: JobStore, uses: Callable[[Job], bool], slug: str, title: str, name: str) -> None:
    """Raise a 409 ``Problem`` if an unfinished job, also in its parameters, names a resource and ``uses`` it."""
    job = next(filter(uses, jobs.mentioning(name)), None)
    if job is not None:
        raise Problem(
            409,
            slug,
            title,
            f"job {job.id} is {job.status.value} and uses {name}; cancel it first or wait for its end",
            extensions={"job": job.id},
        )
