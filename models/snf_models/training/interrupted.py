"""Module without PyTorch, because scoring processes raise the error, too."""


class Interrupted(Exception):
    """``should_stop`` ended a training run, which the next run resumes from its checkpoint."""
