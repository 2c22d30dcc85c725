"""Exceptions of jobs and of the message broker."""

from models.errors import ErrorKind


class JobsError(Exception):
    """Base class of all exceptions about jobs and the message broker.

    ``slug`` and ``title`` identify the error, ``kind`` decides on the HTTP status. ``detail`` is the text for the user.
    """

    slug = "jobs-error"
    title = "Jobs error"
    kind = ErrorKind.FAILED

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BrokerDown(JobsError):
    """Raised when the Redis or Valkey server cannot be reached or does not answer in time."""

    slug = "jobs-unavailable"
    title = "Jobs are unavailable"
    kind = ErrorKind.UNAVAILABLE
    retry_after_s = 5


class JobNotFound(JobsError):
    """Raised when no job has the requested id."""

    slug = "job-not-found"
    title = "No such job"
    kind = ErrorKind.NOT_FOUND


class JobConflict(JobsError):
    """Raised when the status of a job does not allow the requested change, such as pausing a finished job."""

    slug = "job-state-conflict"
    title = "The job's state does not allow this"
    kind = ErrorKind.CONFLICT


class IdempotencyConflict(JobsError):
    """Raised when an ``Idempotency-Key`` was used before for a different request."""

    slug = "idempotency-key-reused"
    title = "Idempotency-Key was used for another request"
    kind = ErrorKind.INVALID


class StaleAttempt(JobsError):
    """Raised when an attempt no longer owns its job, because its lease expired and a newer attempt took over.

    It may write nothing more.
    """

    slug = "stale-attempt"
    title = "Stale attempt"
    kind = ErrorKind.CONFLICT


class BrokerStartFailed(JobsError):
    """Raised when the embedded Valkey server did not start."""

    slug = "broker-start-failed"
    title = "The embedded broker did not start"
