"""Errors raised when a published model checkpoint cannot be imported."""

from __future__ import annotations

from models.errors import ErrorKind, ModelsError


class CheckpointRefused(ModelsError):
    """Raised when a published checkpoint (file of flow weights) cannot be imported as a model.

    For example, it is too large, cannot be read, or holds no flow of a known kind. Published checkpoints are files of
    the code of Keller et al.
    """

    slug = "checkpoint-refused"
    title = "The checkpoint cannot be imported"
    kind = ErrorKind.INVALID
