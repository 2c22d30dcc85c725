"""Exception for work that was stopped early.

It has a module of its own without PyTorch, because scoring processes raise it, too.
"""


class Interrupted(Exception):
    """Raised when ``should_stop`` ended a training run early; the next run resumes from its checkpoint."""
