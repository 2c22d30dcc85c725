"""Errors of the import of published checkpoints."""

from __future__ import annotations

from models.errors import ErrorKind, ModelsError


class CheckpointRefused(ModelsError):
    """Raised for a published checkpoint that has no flow to import.

    Published checkpoints are files of the code of Keller et al.
    """

    slug = "checkpoint-refused"
    title = "The checkpoint cannot be imported"
    kind = ErrorKind.INVALID
