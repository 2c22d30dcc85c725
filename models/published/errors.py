"""Errors raised when a published model checkpoint cannot be imported."""

from __future__ import annotations

from models.errors import ErrorKind, ModelsError


class CheckpointRefused(ModelsError):
    """Raised for a published checkpoint that cannot be imported.

    For example, it is too large, cannot be read, or holds no flow of a known kind. Published checkpoints are files of
    the code of Keller et al.
    """

    slug = "checkpoint-refused"
    title = "The checkpoint cannot be imported"
    kind = ErrorKind.INVALID
