from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from snf_models.locations.errors import LocationRefused
from snf_models.locations.location import Location

SETTING = "SNF_ALLOWED_LOCATIONS"


def allowed_location(url: str, prefixes: Sequence[str], home: Path) -> Location:
    """Return the location of a URL below one of ``prefixes`` and outside ``home``; raise ``LocationRefused``."""
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
