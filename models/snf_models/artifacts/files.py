"""Files of a stored model: reading, tar archives, and copies at a location. Free of torch."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from snf_models.archives import PIECE_BYTES, PieceStream, TarEntry, TarPieces, TarReader, UnsafeTar, write_tar
from snf_models.artifacts.manifest import FILE, Manifest, file_label, read_manifest
from snf_models.disk import new_folder, remove_folder, remove_leftovers, require_room, sha256_file
from snf_models.errors import ArtifactError, ArtifactRefused, FileNotInArtifact
from snf_models.locations.location import Location

WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.safetensors"
PINNED = "pinned.safetensors"
CARD = "card.md"
SAMPLES = "samples.png"
NAMES = (FILE, WEIGHTS, CALIBRATION, PINNED, CARD, SAMPLES)  # the names of all files of an artifact, the manifest first
OPTIONAL = (SAMPLES,)  # the names of files that a model may lack: a density of features has no samples


NUMBERS = "biuf"  # kinds of array elements that a model has, as NumPy names them: booleans, integers and floats


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file; raise ``ArtifactError``, also for types that NumPy lacks, such as bfloat16."""
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two of types that NumPy lacks
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in NUMBERS:  # NumPy has bfloat16, too, once another package added it
            raise ArtifactError(f"{file_label(path)} cannot be read: {name} has numbers of type {array.dtype}")
    return arrays


def check_digest(path: Path, digest: str | None, record: str = "the manifest") -> None:
    """Raise ``ArtifactError`` unless a file is there and has the SHA-256 of its record."""
    if not path.is_file():
        raise ArtifactError(f"{file_label(path)} is missing")
    if sha256_file(path) != digest:
        raise ArtifactError(f"{file_label(path)} does not have the SHA-256 that {record} gives")


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the digests of the other files, which completes a folder."""
    files = {name: sha256_file(folder / name) for name in NAMES if name != FILE and (folder / name).is_file()}
    (folder / FILE).write_text(manifest.model_copy(update={"files": files}).model_dump_json(indent=1))


def image_digest(image: NDArray[np.uint8]) -> str:
    """SHA-256 of shape and pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def read_file(folder: Path, name: str) -> bytes:
    """Return a file of ``NAMES``, verified; raise ``FileNotInArtifact``, or ``ArtifactError`` for damage."""
    digest = read_manifest(folder).files.get(name) if name in NAMES else None
    if digest is None:
        raise FileNotInArtifact(f"{file_label(folder)} has no {name}")
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ArtifactError(f"{file_label(path)} does not have the SHA-256 that the manifest gives")
    return content


MAX_BYTES = {FILE: 2**20, CARD: 2**20, SAMPLES: 32 * 2**20}
"""Largest size of the files that are read as a whole later, bytes; the size of the upload bounds the others."""


def pack(folder: Path) -> TarPieces:
    """Return an archive in pieces; equal files give equal bytes. Raises ``ArtifactError`` for a missing file."""
    try:
        return write_tar(folder, [name for name in NAMES if name not in OPTIONAL or (folder / name).exists()])
    except OSError as error:
        raise ArtifactError(f"{file_label(folder)} cannot be read: {error.strerror}") from error


def unpack(pieces: Iterable[bytes], folder: Path) -> None:
    """Extract an upload with each file of a model once; raise ``ArtifactRefused``. The contents are not checked."""
    missing = dict.fromkeys(NAMES)
    reader = TarReader(PieceStream(iter(pieces)))
    try:
        for entry in reader:
            if entry.kind == "folder" and entry.name == ".":
                continue
            name = _checked_name(entry, missing)
            del missing[name]
            with (folder / name).open("xb") as file:
                while piece := entry.read(PIECE_BYTES):
                    file.write(piece)
        for piece in reader.rest():
            _refuse(piece.count(0) < len(piece), "bytes follow the end of the archive")
    except UnsafeTar as error:
        raise ArtifactRefused(str(error)) from error
    except tarfile.TarError as error:
        raise ArtifactRefused(f"the archive is cut off or damaged, or it is not a plain tar: {error}") from error
    absent = [name for name in missing if name not in OPTIONAL]
    _refuse(bool(absent), f"there is no {', '.join(absent)}")


def _checked_name(entry: TarEntry, missing: dict[str, None]) -> str:
    name = entry.name.removeprefix("./")
    shown = ascii(name[:100])
    _refuse(name not in NAMES, f"{shown} is none of the files of a model, which are {', '.join(NAMES)}")
    _refuse(entry.kind != "file", f"{shown} is not a plain file")
    _refuse(name not in missing, f"{shown} is there twice")
    largest = MAX_BYTES.get(name)
    _refuse(largest is not None and entry.size > largest, f"{shown} has more than {largest} bytes")
    return name


def _refuse(wrong: bool, detail: str) -> None:
    if wrong:
        raise ArtifactRefused(detail)


LEFTOVER_SECONDS = 24 * 3600
"""Age of what a killed process left in the cache from which it is deleted: no fetch goes so long without a byte."""
FETCH_BYTES = 8 * 2**20


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
    try:
        files = read_manifest(folder).files
    except ArtifactError as error:
        raise ArtifactRefused(error.detail) from error
    left = max_bytes - (folder / FILE).stat().st_size
    for name, digest in files.items():
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
        while piece := source.read(FETCH_BYTES):
            target.write(piece)


def _is_sound(folder: Path) -> bool:
    try:
        digests = {FILE: folder.name} | read_manifest(folder).files
        return all(sha256_file(folder / name) == digest for name, digest in digests.items())
    except (OSError, ArtifactError):
        return False
