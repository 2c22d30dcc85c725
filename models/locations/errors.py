"""Errors of access to files at a URL, with messages that name the URL."""

from __future__ import annotations

from models.errors import ErrorKind, ModelsError


class LocationRefused(ModelsError):
    """Raised for a file or folder location that is invalid, forbidden or not supported.

    For example, its URL is malformed, its scheme is not supported, the caller may not name it or has no access, or the
    settings of its store are wrong.
    """

    slug = "location-refused"
    title = "The location cannot be used"
    kind = ErrorKind.INVALID


class FileUnreadable(LocationRefused):
    """Raised when a single file cannot be read.

    The reason is its permissions, a disk error or that it is archived. Other files may be readable.
    """


class LocationNotFound(ModelsError):
    """Raised where there is no file and no folder at a location."""

    slug = "location-not-found"
    title = "There is nothing at the location"
    kind = ErrorKind.INVALID


class LocationUnavailable(ModelsError):
    """Raised when the server or disk that holds a file fails or does not answer."""

    slug = "location-unavailable"
    title = "The location cannot be reached"
    kind = ErrorKind.UNAVAILABLE


class FileChanged(ModelsError):
    """Raised when a file has changed, so that its expected version can no longer be read."""

    slug = "file-changed"
    title = "The file has changed"
    kind = ErrorKind.CONFLICT
