"""Errors of locations, each a sentence that names the location."""

from __future__ import annotations

from models.errors import ErrorKind, ModelsError


class LocationRefused(ModelsError):
    """Raised for a malformed URL, a scheme that is not supported, and a location that a caller may not name."""

    slug = "location-refused"
    title = "The location cannot be used"
    kind = ErrorKind.INVALID


class FileUnreadable(LocationRefused):
    """Raised if a single file cannot be read (permissions, disk error, archived). Other files may be readable."""


class LocationNotFound(ModelsError):
    """Raised where there is no file and no folder at a location."""

    slug = "location-not-found"
    title = "There is nothing at the location"
    kind = ErrorKind.INVALID


class LocationUnavailable(ModelsError):
    """Raised where the server or disk of a location does not answer, fails, or denies access."""

    slug = "location-unavailable"
    title = "The location cannot be reached"
    kind = ErrorKind.UNAVAILABLE


class FileChanged(ModelsError):
    """Raised when a file to be read is not of the expected version."""

    slug = "file-changed"
    title = "The file has changed"
    kind = ErrorKind.CONFLICT
