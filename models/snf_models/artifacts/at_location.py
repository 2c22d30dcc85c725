"""Model files at a location, such as a folder of a bucket. What is fetched is not trusted. Free of torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from snf_models.artifacts.files import NAMES
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.artifacts.tar import MAX_BYTES
from snf_models.atomic_files import new_folder, remove_folder, remove_leftovers, sha256_file
from snf_models.disk_space import require_room
from snf_models.errors import ArtifactError, ArtifactRefused
from snf_models.locations.location import Location

LEFTOVER_SECONDS = 24 * 3600
"""Age of what a killed process left in the cache from which it is deleted: no fetch goes so long without a byte."""
PIECE_BYTES = 8 * 2**20


def write_artifact(folder: Path, location: Location) -> None:
    """Write a model, the manifest last: with it the model is complete. Raises ``ArtifactError``."""
    names = [*read_manifest(folder).files, FILE]
    for name in names:
        location.child(name).write(folder / name)


def files_at(location: Location) -> list[str]:
    return [name for name in NAMES if location.child(name).exists()]


def fetch_artifact(location: Location, folder: Path, max_bytes: int) -> None:
    """Copy a model to an empty folder and check names, sizes and digests; raise ``ArtifactRefused`` otherwise."""
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
    """Return a model's folder in the cache, fetched if it is new. ``check`` raises if the model cannot be used."""
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
