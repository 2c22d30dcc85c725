"""Errors of the import of published checkpoints."""

from __future__ import annotations

from models.errors import ErrorKind, ModelsError


class CheckpointRefused(ModelsError):
    """Raised for a checkpoint file of the published code that holds no flow which can be imported."""

    slug = "checkpoint-refused"
    title = "The checkpoint cannot be imported"
    kind = ErrorKind.INVALID
