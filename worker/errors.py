"""Exceptions of jobs and of the message broker."""

from models.errors import ErrorKind


class JobsError(Exception):
    """Base class of errors about jobs and the message broker.

    Each subclass has a name, a title and an HTTP status.

    ``slug`` and ``title`` identify the error, ``kind`` decides on the HTTP status. ``detail`` is the text for the user.
    """

    slug = "jobs-error"
    title = "Jobs error"
    kind = ErrorKind.FAILED

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BrokerDown(JobsError):
    """Raised when the Redis or Valkey server cannot be reached, does not answer in time, or takes no writes."""

    slug = "jobs-unavailable"
    title = "Jobs are unavailable"
    kind = ErrorKind.UNAVAILABLE
    retry_after_s = 5


class JobNotFound(JobsError):
    """Raised when no job has the requested id; the HTTP status is 404."""

    slug = "job-not-found"
    title = "No such job"
    kind = ErrorKind.NOT_FOUND


class RunNotFound(JobsError):
    """Raised when no training run has the requested id; the HTTP status is 404."""

    slug = "run-not-found"
    title = "No such run"
    kind = ErrorKind.NOT_FOUND


class JobConflict(JobsError):
    """Raised when a job's status does not allow a change, such as pausing a finished job.

    The HTTP status is 409.
    """

    slug = "job-state-conflict"
    title = "The job's state does not allow this"
    kind = ErrorKind.CONFLICT


class JobInUse(JobsError):
    """Raised when a job cannot be removed because an unfinished retry may need the job's checkpoints.

    The HTTP status is 409.

    Args:
        detail: Text for the user.
        job: Id of the unfinished job.
    """

    slug = "job-in-use"
    title = "The job is in use"
    kind = ErrorKind.CONFLICT

    def __init__(self, detail: str, job: str) -> None:
        super().__init__(detail)
        self.job = job


class TooManyJobs(JobsError):
    """Raised when a caller, or the whole service, has too many unfinished jobs.

    The HTTP status is 429.
    """

    slug = "queue-full"
    title = "Too many jobs are unfinished"
    kind = ErrorKind.BUSY
    retry_after_s = 60


class IdempotencyConflict(JobsError):
    """Raised when an ``Idempotency-Key`` is sent again with a different request; the HTTP status is 422."""

    slug = "idempotency-key-reused"
    title = "Idempotency-Key was used for another request"
    kind = ErrorKind.INVALID


class StaleAttempt(JobsError):
    """Raised when an attempt (execution) of a job must stop because it lost the right to run the job.

    An attempt is one execution of a job. Its lease on the job has ended, or has passed to a newer attempt. The attempt
    is then stale.

    It may write nothing more.
    """

    slug = "stale-attempt"
    title = "Stale attempt"
    kind = ErrorKind.CONFLICT


class BrokerStartFailed(JobsError):
    """Raised when the message broker cannot be used, for example because its Valkey server does not start."""

    slug = "broker-start-failed"
    title = "The broker cannot be used"
