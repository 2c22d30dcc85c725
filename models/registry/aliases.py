"""Storage of a model's version aliases, such as ``live``, in a JSON file of its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.artifacts.manifest import file_label
from models.atomic_files import write_atomically
from models.errors import ArtifactError, ErrorKind, ModelsError

ALIASES = "aliases.json"
MAX_ALIASES = 100
"""Most aliases of a model besides ``live``: all are read, and written anew, at each change."""


class TooManyAliases(ModelsError):
    """Raised when an alias is added to a model that already has the maximum number of aliases."""

    slug = "too-many-aliases"
    title = "The model has too many aliases"
    kind = ErrorKind.CONFLICT


def read_aliases(folder: Path) -> dict[str, int]:
    """Read the stored aliases of a model, and return a dict from alias to version number.

    The dict is empty if the folder has no file of aliases.

    Raises ``ArtifactError`` for a damaged file.
    """
    path = folder / ALIASES
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
        return {str(alias): int(version) for alias, version in stored.items()}
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{file_label(path)} is not a map of aliases to versions: {error}") from error


def write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    """Replace the file of a model's aliases atomically.

    Readers find all old or all new aliases.

    The caller holds the lock of the folder.
    """
    write_atomically(folder / ALIASES, json.dumps(aliases, indent=1).encode())
