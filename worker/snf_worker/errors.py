"""Errors of jobs, such as an outage of the broker."""

from __future__ import annotations

from snf_models.errors import ErrorKind, ModelsError


class JobsError(ModelsError, slug="jobs-error", title="Jobs error"):
    """Base class of errors of jobs."""


class BrokerDown(JobsError, slug="jobs-unavailable", title="Jobs are unavailable", kind=ErrorKind.UNAVAILABLE):
    """Raised when the Redis or Valkey server cannot be reached, does not answer in time, or takes no writes."""

    retry_after_s = 5


class BrokerStartFailed(JobsError, slug="broker-start-failed", title="The broker cannot be used"):
    pass


class JobNotFound(JobsError, slug="job-not-found", title="No such job", kind=ErrorKind.NOT_FOUND):
    pass


class RunNotFound(JobsError, slug="run-not-found", title="No such run", kind=ErrorKind.NOT_FOUND):
    pass


class JobConflict(
    JobsError, slug="job-state-conflict", title="The job's state does not allow this", kind=ErrorKind.CONFLICT
):
    """Raised when a job's status does not allow a change, such as pausing a finished job."""


class JobInUse(JobsError, slug="job-in-use", title="The job is in use", kind=ErrorKind.CONFLICT):
    """Raised when a job cannot be removed because an unfinished retry may need its checkpoints."""

    def __init__(self, detail: str, job: str) -> None:
        super().__init__(detail)
        self.job = job


class TooManyJobs(JobsError, slug="queue-full", title="Too many jobs are unfinished", kind=ErrorKind.BUSY):
    """Raised when a caller, or the whole service, has too many unfinished jobs."""

    retry_after_s = 60


class IdempotencyConflict(
    JobsError,
    slug="idempotency-key-reused",
    title="Idempotency-Key was used for another request",
    kind=ErrorKind.INVALID,
):
    """Raised when an ``Idempotency-Key`` is sent again with a different request."""


class StaleAttempt(JobsError, slug="stale-attempt", title="Stale attempt", kind=ErrorKind.CONFLICT):
    """Raised when an attempt has lost its lease on the job and may write nothing more."""
