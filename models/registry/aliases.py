"""The movable names of a model's versions on disk: ``aliases.json``. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.artifacts.manifest import file_label
from models.atomic_files import write_atomically
from models.errors import ArtifactError

ALIASES = "aliases.json"


def read_aliases(folder: Path) -> dict[str, int]:
    """Return alias -> version as stored in a model's folder; empty where none was. Raises ``ArtifactError``."""
    path = folder / ALIASES
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
        return {str(alias): int(version) for alias, version in stored.items()}
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{file_label(path)} is not a map of aliases to versions: {error}") from error


def write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    """Replace the aliases of a model, at once for readers; the writer holds the lock of its folder."""
    write_atomically(folder / ALIASES, json.dumps(aliases, indent=1).encode())
