"""Tar archives of stored models, for downloads and uploads. Free of torch."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from snf_models.archives.tar import PIECE_BYTES, TarEntry, TarPieces, TarReader, UnsafeTar, write_tar
from snf_models.artifacts.files import CARD, NAMES, OPTIONAL, SAMPLES
from snf_models.artifacts.manifest import FILE, file_label
from snf_models.errors import ArtifactError, ArtifactRefused

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
    reader = TarReader(_PieceStream(iter(pieces)))
    try:
        for entry in reader:
            if entry.kind == "folder" and entry.name == ".":
                continue
            name = _checked_name(entry, missing)
            del missing[name]
            with (folder / name).open("xb") as file:
                while piece := entry.content.read(PIECE_BYTES):
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


class _PieceStream:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._piece and (piece := next(self._pieces, None)) is not None:
            self._piece = memoryview(piece)
        taken, self._piece = self._piece[:size], self._piece[size:]
        return bytes(taken)
