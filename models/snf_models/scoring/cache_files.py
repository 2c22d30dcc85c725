"""Files of the engine cache: each starts with the SHA-256 of its content; those unused for long are deleted."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path

from snf_models.disk import remove_leftovers, require_room, write_atomically
from snf_models.errors import StorageFull

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
"""Largest size of the cache in bytes; files that were not used for the longest time are removed first."""
DIGEST_BYTES = 32
ENDINGS = (".blob", ".density")
"""Endings of the names of these files: of compiled graphs, and of prepared densities."""
LEFTOVER_S = 3600.0
"""Age in seconds from which an unfinished file is that of a killed process."""


def read_cached(path: Path) -> bytes | None:
    """Return the content of a file and update its last use; None, and a log line, where it is missing or damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s of the cache cannot be read and is made again: %s", path.name, error.strerror)
        return None
    content = whole[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != whole[:DIGEST_BYTES]:
        log.warning("%s of the cache is damaged and is made again", path.name)
        return None
    note_use(path)
    return content


def note_use(path: Path) -> None:
    """Set the last use of a file: those unused for the longest time are deleted first."""
    try:
        os.utime(path)
    except OSError as error:  # such as a read-only folder, in which nothing is deleted either
        log.debug("the use of %s cannot be noted: %s", path.name, error.strerror)


def write_cached(path: Path, content: bytes) -> None:
    """Write a file, or log why not; delete the longest unused beyond 4 GiB, and leftovers of killed processes."""
    try:
        require_room(path.parent, len(content))
        write_atomically(path, hashlib.sha256(content).digest() + content)
        _prune(path.parent)
    except StorageFull as problem:
        log.warning("%s is not stored in the cache: %s", path.name, problem.detail)
    except OSError as error:
        log.warning("%s cannot be stored in the cache: %s", path.name, error.strerror)


def _prune(folder: Path) -> None:
    remove_leftovers(folder, LEFTOVER_S)
    files: list[tuple[float, int, Path]] = []
    for file in folder.iterdir():
        if file.suffix in ENDINGS:
            with suppress(FileNotFoundError):  # another process may delete it in the meantime
                state = file.stat()
                files.append((state.st_mtime, state.st_size, file))
    total = 0
    for _, size, file in sorted(files, reverse=True):
        total += size
        if total > MAX_BYTES:
            file.unlink(missing_ok=True)
