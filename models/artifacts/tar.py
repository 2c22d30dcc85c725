"""An artifact as one tar file: written as a stream, and read as one without trusting anything in it. Free of torch."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from models.artifacts.files import CARD, NAMES, SAMPLES
from models.artifacts.manifest import FILE, file_label
from models.errors import ArtifactError, ArtifactRefused

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
PIECE = 2**18
MOST = {FILE: 2**20, CARD: 2**20, SAMPLES: 32 * 2**20}
"""Largest size of the files that are read as a whole later, bytes; what the others take is bounded by the upload."""
MOST_EXTRA = 64 * 2**10
"""Largest extended header, bytes; it is passed over: names and sizes here fit in plain ones."""
EXTRA = (tarfile.XHDTYPE, tarfile.XGLTYPE)


class TarPieces:
    """The content of a tar, to be taken once; closing it closes the files that it is read from."""

    def __init__(self, pieces: Iterator[bytes], files: ExitStack) -> None:
        self._pieces = pieces
        self._files = files

    def __iter__(self) -> TarPieces:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close the files, whether all pieces were taken or not."""
        self._files.close()


@dataclass(frozen=True)
class Packed:
    """A tar as it is written: its size in bytes, and its content."""

    size: int
    pieces: TarPieces


def pack(folder: Path) -> Packed:
    """Return the artifact in ``folder`` as a tar, the same bytes for the same files, wherever they lie.

    All files are opened at once, so that the stream ends well where the version is removed meanwhile; they are closed
    at the end of the pieces, or by closing these. Raises ``ArtifactError``.
    """
    files = ExitStack()
    try:
        opened = [(name, files.enter_context((folder / name).open("rb"))) for name in NAMES]
        sizes = [(folder / name).stat().st_size for name in NAMES]
    except OSError as error:
        files.close()
        raise ArtifactError(f"{file_label(folder)} cannot be read: {error.strerror}") from error
    headers = [_header(name, size) for name, size in zip(NAMES, sizes, strict=True)]
    used = sum(len(header) + size + _padding(size) for header, size in zip(headers, sizes, strict=True))
    end = 2 * BLOCK + -(used + 2 * BLOCK) % RECORD

    def pieces() -> Iterator[bytes]:
        with files:
            for header, size, (_, file) in zip(headers, sizes, opened, strict=True):
                yield header
                while piece := file.read(PIECE):
                    yield piece
                yield bytes(_padding(size))
            yield bytes(end)

    return Packed(used + end, TarPieces(pieces(), files))


def unpack(pieces: Iterable[bytes], folder: Path) -> None:
    """Write the files of an artifact's tar, which arrives in ``pieces``, into ``folder``, which is empty.

    Taken are plain files of the names that an artifact has, each once; whether they are a model is not looked at.
    Raises ``ArtifactRefused``, and what ``pieces`` raises.
    """
    stream = _Stream(pieces)
    missing = dict.fromkeys(NAMES)
    while (member := _member(stream)) is not None:
        if member.type in EXTRA:
            _refuse(member.size > MOST_EXTRA, f"an extended header has more than {MOST_EXTRA} bytes")
            stream.skip(member.size + _padding(member.size))
            continue
        if member.isdir() and member.name == ".":
            continue
        name = member.name.removeprefix("./")
        shown = ascii(name[:100])
        _refuse(name not in NAMES, f"{shown} is none of the files of a model, which are {', '.join(NAMES)}")
        _refuse(member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE), f"{shown} is not a plain file")
        _refuse(name not in missing, f"{shown} is there twice")
        most = MOST.get(name)
        _refuse(most is not None and member.size > most, f"{shown} has more than {most} bytes")
        del missing[name]
        with (folder / name).open("xb") as file:
            for piece in stream.take(member.size):
                file.write(piece)
        stream.skip(_padding(member.size))
    for piece in stream.rest():
        _refuse(piece.count(0) < len(piece), "bytes follow the end of the archive")
    _refuse(bool(missing), f"there is no {', '.join(missing)}")


class _Stream:
    """Pieces of any length, given out in the lengths that are asked for."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")

    def take(self, count: int) -> Iterator[bytes]:
        """Yield the next ``count`` bytes in pieces. Raises ``ArtifactRefused`` where there are fewer."""
        while count:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    raise ArtifactRefused("the archive is cut off")
                self._piece = memoryview(piece)
            taken, self._piece = self._piece[:count], self._piece[count:]
            count -= len(taken)
            yield bytes(taken)

    def skip(self, count: int) -> None:
        for _ in self.take(count):
            pass

    def rest(self) -> Iterator[bytes]:
        yield bytes(self._piece)
        yield from self._pieces


def _member(stream: _Stream) -> tarfile.TarInfo | None:
    """Read a header; None at the end of the archive."""
    block = b"".join(stream.take(BLOCK))
    if not block.strip(b"\0"):
        return None
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ArtifactRefused(f"it is not a plain tar, or damaged: {error}") from error
    _refuse(member.size < 0, "a header gives a negative size")
    return member


def _refuse(wrong: bool, detail: str) -> None:
    if wrong:
        raise ArtifactRefused(detail)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> int:
    return -size % BLOCK
