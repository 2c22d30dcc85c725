"""Storage of model files at a location, such as a folder of a bucket: writing, fetching and caching.

The module does not import torch.

Names and digests of what is fetched are checked, sizes are bounded, and no code in it is executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from models.artifacts.files import NAMES
from models.artifacts.manifest import FILE, read_manifest
from models.artifacts.tar import MAX_BYTES
from models.atomic_files import new_folder, remove_folder, remove_leftovers, sha256_file
from models.disk_space import require_room
from models.errors import ArtifactError, ArtifactRefused
from models.locations.location import Location

LEFTOVER_SECONDS = 24 * 3600
"""Age of what a killed process left in the cache from which it is deleted: no fetch goes so long without a byte."""
PIECE_BYTES = 8 * 2**20


def write_artifact(folder: Path, location: Location) -> None:
    """Write the files of a stored model to a location, such as a folder of a bucket.

    The manifest is written last: with it the model is complete.

    Raises:
        ArtifactError: The manifest is missing or damaged.
    """
    names = [*read_manifest(folder).files, FILE]
    for name in names:
        location.child(name).write(folder / name)


def files_at(location: Location) -> list[str]:
    """Return the names of the model files that already exist at a storage location."""
    return [name for name in NAMES if location.child(name).exists()]


def fetch_artifact(location: Location, folder: Path, max_bytes: int) -> None:
    """Copy the files of a stored model from a storage location to an empty folder, and verify them.

    Their names, sizes and digests are checked.

    What the files mean is not checked here. After an error, files that were already read stay in the folder.

    Args:
        location: The folder of the model.
        folder: The empty folder to write to.
        max_bytes: Most bytes of all files together.

    Raises:
        ArtifactRefused: A file is missing, unknown or too large, or its SHA-256 is not the manifest's.
        LocationNotFound: There is no manifest.
        StorageFull: The disk has no room for a file beside its reserve.
    """
    _read_bounded(location, FILE, folder, max_bytes)
    manifest = _manifest(folder)
    left = max_bytes - (folder / FILE).stat().st_size
    for name, digest in manifest.items():
        if name not in NAMES or name == FILE:
            raise ArtifactRefused(f"{name[:100]!a} is none of the files of a model, which are {', '.join(NAMES)}")
        _read_bounded(location, name, folder, left)
        left -= (folder / name).stat().st_size
        if sha256_file(folder / name) != digest:
            raise ArtifactRefused(f"{location.child(name)} does not have the SHA-256 that the manifest gives")


def cached_artifact(location: Location, cache: Path, max_bytes: int, check: Callable[[Path], None]) -> Path:
    """Return a model's folder in the local cache, fetching the model from a storage location if needed.

    The files in the folder are verified.

    The cache names folders by the SHA-256 of the manifest, which names that of each file. So a model is fetched once,
    and another one that is written to the location is found at once.

    Args:
        location: The folder of the model.
        cache: The folder of all cached models.
        max_bytes: Most bytes of all files together.
        check: Called with the folder before the model is kept; raises where it cannot be used.

    Raises:
        ArtifactRefused: The files are not those of a model.
        LocationNotFound: There is no manifest.
        StorageFull: The disk has no room for a file beside its reserve.
    """
    remove_leftovers(cache, LEFTOVER_SECONDS)
    with location.child(FILE).open() as file:
        digest = hashlib.sha256(file.read(MAX_BYTES[FILE])).hexdigest()
    kept = cache / digest
    if kept.is_dir():
        if _is_sound(kept):
            return kept
        remove_folder(kept)
    with suppress(FileExistsError), new_folder(kept) as folder:  # another process was quicker
        fetch_artifact(location, folder, max_bytes)
        if sha256_file(folder / FILE) != digest:
            raise ArtifactRefused(f"{location} was replaced while it was read; repeat the command")
        check(folder)
    return kept


def _read_bounded(location: Location, name: str, folder: Path, max_bytes: int) -> None:
    place, most = location.child(name), min(MAX_BYTES.get(name, max_bytes), max_bytes)
    with place.open() as source, (folder / name).open("xb") as target:
        if source.size > most:
            raise ArtifactRefused(f"{place} has {source.size} bytes, expected at most {most}")
        require_room(folder, source.size)
        while piece := source.read(PIECE_BYTES):
            target.write(piece)


def _manifest(folder: Path) -> dict[str, str]:
    try:
        return read_manifest(folder).files
    except ArtifactError as error:
        raise ArtifactRefused(error.detail) from error


def _is_sound(folder: Path) -> bool:
    """Return whether the files of a cached model are as they were fetched."""
    try:
        digests = {FILE: folder.name} | read_manifest(folder).files
        return all(sha256_file(folder / name) == digest for name, digest in digests.items())
    except (OSError, ArtifactError):
        return False
