from __future__ import annotations

from snf_models.errors import ErrorKind, ModelsError


class LocationRefused(ModelsError):
    """A location is malformed, forbidden or of a scheme that is not supported, or its settings are wrong."""

    slug = "location-refused"
    title = "The location cannot be used"
    kind = ErrorKind.INVALID


class FileUnreadable(LocationRefused):
    """A single file cannot be read; others may be readable."""


class LocationNotFound(ModelsError):
    slug = "location-not-found"
    title = "There is nothing at the location"
    kind = ErrorKind.INVALID


class LocationUnavailable(ModelsError):
    """The server or disk fails or does not answer."""

    slug = "location-unavailable"
    title = "The location cannot be reached"
    kind = ErrorKind.UNAVAILABLE


class FileChanged(ModelsError):
    """The expected version of a file can no longer be read."""

    slug = "file-changed"
    title = "The file has changed"
    kind = ErrorKind.CONFLICT
