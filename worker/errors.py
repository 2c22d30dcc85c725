"""What can go wrong with jobs, as typed errors."""

from models.errors import ErrorKind


class JobsError(Exception):
    """Base of all errors about jobs; `slug` is stable, `kind` decides on the HTTP status."""

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
    """There is no job with this id."""

    slug = "job-not-found"
    title = "No such job"
    kind = ErrorKind.NOT_FOUND


class JobConflict(JobsError):
    """The job is in a state that does not allow this change."""

    slug = "job-state-conflict"
    title = "The job's state does not allow this"
    kind = ErrorKind.CONFLICT


class IdempotencyConflict(JobsError):
    """The Idempotency-Key was used before, for a different request."""

    slug = "idempotency-key-reused"
    title = "Idempotency-Key was used for another request"
    kind = ErrorKind.INVALID


class StaleAttempt(JobsError):
    """This attempt lost its lease: a newer one owns the job, so nothing may be written any more."""

    slug = "stale-attempt"
    title = "Stale attempt"
    kind = ErrorKind.CONFLICT


class BrokerStartFailed(JobsError):
    """The embedded broker did not start."""

    slug = "broker-start-failed"
    title = "The embedded broker did not start"
