from snf_models.errors import ErrorKind


class JobsError(Exception):
    """Base class of errors of jobs; ``kind`` decides on the HTTP status, ``detail`` is the text for the user."""

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
    slug = "job-not-found"
    title = "No such job"
    kind = ErrorKind.NOT_FOUND


class RunNotFound(JobsError):
    slug = "run-not-found"
    title = "No such run"
    kind = ErrorKind.NOT_FOUND


class JobConflict(JobsError):
    """Raised when a job's status does not allow a change, such as pausing a finished job."""

    slug = "job-state-conflict"
    title = "The job's state does not allow this"
    kind = ErrorKind.CONFLICT


class JobInUse(JobsError):
    """Raised when a job cannot be removed because an unfinished retry may need its checkpoints."""

    slug = "job-in-use"
    title = "The job is in use"
    kind = ErrorKind.CONFLICT

    def __init__(self, detail: str, job: str) -> None:
        super().__init__(detail)
        self.job = job


class TooManyJobs(JobsError):
    """Raised when a caller, or the whole service, has too many unfinished jobs."""

    slug = "queue-full"
    title = "Too many jobs are unfinished"
    kind = ErrorKind.BUSY
    retry_after_s = 60


class IdempotencyConflict(JobsError):
    """Raised when an ``Idempotency-Key`` is sent again with a different request."""

    slug = "idempotency-key-reused"
    title = "Idempotency-Key was used for another request"
    kind = ErrorKind.INVALID


class StaleAttempt(JobsError):
    """Raised when an attempt has lost its lease on the job and may write nothing more."""

    slug = "stale-attempt"
    title = "Stale attempt"
    kind = ErrorKind.CONFLICT


class BrokerStartFailed(JobsError):
    slug = "broker-start-failed"
    title = "The broker cannot be used"
