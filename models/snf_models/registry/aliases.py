"""Aliases of a model's versions, such as ``live``, in a JSON file of its folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from snf_models.artifacts.manifest import file_label
from snf_models.atomic_files import write_atomically
from snf_models.errors import ArtifactError, ErrorKind, ModelsError
from snf_models.naming import LIVE

ALIASES, ANNOUNCED = "aliases.json", "announced-live"
MAX_ALIASES = 100
"""Most aliases of a model besides ``live``: all are read, and written anew, at each change."""


class TooManyAliases(ModelsError):
    slug = "too-many-aliases"
    title = "The model has too many aliases"
    kind = ErrorKind.CONFLICT


def read_aliases(folder: Path, versions: Collection[int]) -> dict[str, int]:
    """Read aliases. A version that was announced as live is live if it exists. Raises ``ArtifactError``."""
    path, announced = folder / ALIASES, _announced(folder)
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
        aliases = {str(alias): int(version) for alias, version in stored.items()}
        if announced is not None and announced in versions:
            aliases[LIVE] = announced
        return aliases
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{file_label(path)} is not a map of aliases to versions: {error}") from error


def write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    """Replace the file of aliases; remove the announcement. The caller holds the lock of the folder."""
    write_atomically(folder / ALIASES, json.dumps(aliases, indent=1).encode())
    (folder / ANNOUNCED).unlink(missing_ok=True)


def announce_live(folder: Path, version: int, *, live: bool) -> None:
    """Note whether a new version is live, before its folder appears. The caller holds the lock."""
    if live:
        write_atomically(folder / ANNOUNCED, str(version).encode())
    elif _announced(folder) == version:  # by a publication that did not come to its end
        (folder / ANNOUNCED).unlink()


def _announced(folder: Path) -> int | None:
    try:
        return int((folder / ANNOUNCED).read_text())
    except (FileNotFoundError, ValueError):
        return None
