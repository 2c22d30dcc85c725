"""Which locations a caller of the HTTP service may name: those below the prefixes of ``SNF_ALLOWED_LOCATIONS``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from models.locations.errors import LocationRefused
from models.locations.location import Location

SETTING = "SNF_ALLOWED_LOCATIONS"


def allowed_location(url: str, prefixes: Sequence[str]) -> Location:
    """Return the location of a URL that a caller over HTTP named.

    On this machine links are followed first, so that no link leads out of a prefix.

    Args:
        url: The URL.
        prefixes: URLs of the folders that callers may name, themselves and what is below them.

    Raises:
        LocationRefused: The URL is malformed, or not at or below a prefix.
    """
    location = Location(url)
    if not prefixes:
        raise LocationRefused(
            f"{location} may not be named over HTTP: expected a location below one of {SETTING}, which is not set"
        )
    if not any(_is_within(_resolved(location), _resolved(Location(prefix))) for prefix in prefixes):
        raise LocationRefused(
            f"{location} may not be named over HTTP: expected a location below one of {SETTING}: {', '.join(prefixes)}"
        )
    return location


def _resolved(location: Location) -> tuple[str, str, str]:
    path = os.path.realpath(location.path) if location.scheme == "file" else location.path
    return location.scheme, location.bucket, path


def _is_within(place: tuple[str, str, str], prefix: tuple[str, str, str]) -> bool:
    if place[:2] != prefix[:2]:
        return False
    folder = prefix[2].rstrip("/")
    return not folder or place[2] == folder or place[2].startswith(f"{folder}/")
