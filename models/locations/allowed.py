"""Check of file locations that callers over HTTP name, against allowed URL prefixes.

Allowed are locations at or below the prefixes in ``SNF_ALLOWED_LOCATIONS``, except the data folder of the service.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from models.locations.errors import LocationRefused
from models.locations.location import Location

SETTING = "SNF_ALLOWED_LOCATIONS"


def allowed_location(url: str, prefixes: Sequence[str], home: Path) -> Location:
    """Check that HTTP callers may use the folder or file at a URL, and return its location.

    On this machine links are followed first, so that no link leads out of a prefix. The location that is returned has
    none, so that what is checked is what is used.

    Args:
        url: The URL.
        prefixes: URLs of the folders that callers may name, themselves and what is below them.
        home: The data folder of the service, which no caller may name, nor a folder that holds it.

    Raises:
        LocationRefused: The URL is malformed, not at or below a prefix, or at the data folder.
    """
    location = Location(url)
    if not prefixes:
        raise LocationRefused(
            f"{location} may not be named over HTTP: expected a location below one of {SETTING}, which is not set"
        )
    place = _resolved(location)
    if not any(_is_within(place, _resolved(Location(prefix))) for prefix in prefixes):
        raise LocationRefused(
            f"{location} may not be named over HTTP: expected a location below one of {SETTING}: {', '.join(prefixes)}"
        )
    own = _resolved(Location.parse(str(home)))
    if _is_within(place, own) or _is_within(own, place):
        raise LocationRefused(f"{location} may not be named over HTTP: expected a folder apart from SNF_HOME")
    return place


def _resolved(location: Location) -> Location:
    return Location.parse(os.path.realpath(location.path)) if location.scheme == "file" else location


def _is_within(place: Location, folder: Location) -> bool:
    if (place.scheme, place.bucket) != (folder.scheme, folder.bucket):
        return False
    path = folder.path.rstrip("/")
    return not path or place.path == path or place.path.startswith(f"{path}/")
