"""Typed errors of jobs and of the broker."""

from models.errors import ErrorKind


class JobsError(Exception):
    """Base class of all errors about jobs.

    ``slug`` and ``title`` identify the kind of error, ``status`` is the HTTP status that fits it, and ``detail`` is the
    text for the user.
    """

    slug = "jobs-error"
    title = "Jobs error"
    kind = ErrorKind.FAILED

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BrokerDown(JobsError):
    """Redis or Valkey cannot be reached or does not answer in time."""

    slug = "jobs-unavailable"
    title = "Jobs are unavailable"
    kind = ErrorKind.UNAVAILABLE
    retry_after_s = 5


class JobNotFound(JobsError):
    """No job has the requested id."""

    slug = "job-not-found"
    title = "No such job"
    kind = ErrorKind.NOT_FOUND


class JobConflict(JobsError):
    """The state of the job does not allow the requested change."""

    slug = "job-state-conflict"
    title = "The job's state does not allow this"
    kind = ErrorKind.CONFLICT


class IdempotencyConflict(JobsError):
    """The ``Idempotency-Key`` of a request was used before for a different request."""

    slug = "idempotency-key-reused"
    title = "Idempotency-Key was used for another request"
    kind = ErrorKind.INVALID


class StaleAttempt(JobsError):
    """The attempt lost its lease: it may write nothing more, because a newer attempt owns the job."""

    slug = "stale-attempt"
    title = "Stale attempt"
    kind = ErrorKind.CONFLICT


class BrokerStartFailed(JobsError):
    """The embedded broker did not start."""

    slug = "broker-start-failed"
    title = "The embedded broker did not start"
