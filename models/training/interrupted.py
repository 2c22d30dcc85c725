"""The exception of work that was stopped. A file of its own: processes that score raise it, too, without torch."""


class Interrupted(Exception):
    """Raised when ``should_stop`` ended a training run early; the next run resumes from its checkpoint."""
