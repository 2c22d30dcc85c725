"""Files on this machine: the images in folders, and streams for uploads that report their progress."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol, TypeAlias

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
TEXT_SUFFIXES = (
    ".csv", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".part", ".py", ".sh", ".tmp", ".toml", ".tsv",
    ".txt", ".xml", ".yaml", ".yml",
)  # fmt: skip
"""Ends of names of files that lie beside images: texts, and files that are still being written."""
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
SYSTEM_FOLDER = "__MACOSX"
CHUNK_BYTES = 2**16
EMPTY = Path(os.devnull)

Progress: TypeAlias = Callable[[int, int], None]
"""Function that is called with the bytes that were sent and the bytes in all."""


class FilesProblem(ValueError):
    """Raised when files for an upload cannot be used.

    A path does not exist or is not a plain file, no image is found, or a file gets shorter while it is read.
    """


@dataclass(frozen=True)
class FolderFiles:
    """Files of a folder and its subfolders in natural order."""

    files: list[Path]  # also what cannot be read, so that reading it says why
    skipped: list[Path]  # hidden files, files of systems, and texts

    @property
    def note(self) -> str | None:
        """A sentence that names up to three skipped files, if there are any."""
        if not self.skipped:
            return None
        count = "1 file was" if len(self.skipped) == 1 else f"{len(self.skipped)} files were"
        names = ", ".join(path.name for path in self.skipped[:3]) + (", ..." if len(self.skipped) > 3 else "")
        return f"{count} skipped, as hidden files, files of systems and texts are: {names}"


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_no_image(path: PurePath) -> bool:
    """Return whether a path in a folder is hidden, of a system or a text; all other files are judged."""
    name = path.name.lower()
    hidden = any(part.startswith(".") or part == SYSTEM_FOLDER for part in path.parts)
    return hidden or name in SYSTEM_FILES or name.endswith(TEXT_SUFFIXES)


def natural_order(path: PurePath) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return a sort key by which 2 comes before 10, as the console's ``js/score/natural_order.js``.

    >>> sorted(map(PurePath, ["a/10.png", "a/2.png", "a/02.png"]), key=natural_order)
    [PurePosixPath('a/02.png'), PurePosixPath('a/2.png'), PurePosixPath('a/10.png')]
    """
    parts = (re.split("([0-9]+)", part) for part in path.parts)
    key = tuple(tuple(int(run) if place % 2 else run for place, run in enumerate(runs)) for runs in parts)
    return key, path.as_posix()


def files_in(folder: Path) -> FolderFiles:
    """Return all files under a folder, without following links to folders."""
    found: list[Path] = []

    def keep(error: OSError) -> None:
        found.append(Path(error.filename))  # a subfolder that cannot be listed

    for root, folders, names in os.walk(folder, onerror=keep):
        found += (Path(root, name) for name in names)
        found += (path for name in folders if (path := Path(root, name)).is_symlink())
    files = FolderFiles([], [])
    for path in sorted(found, key=natural_order):
        (files.skipped if is_no_image(path.relative_to(folder)) else files.files).append(path)
    return files


def images_in(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders that may be images, in natural order (2 before 10).

    See ``FolderFiles`` for which files may be images.
    """
    return files_in(folder).files


def split_paths(paths: list[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Return images by their names below the common folder, and other files; raise ``FilesProblem`` for none."""
    images: list[Path] = []
    skipped: list[Path] = []
    others: list[Path] = []
    roots: list[Path] = []
    for given in paths:
        path = Path(os.path.normpath(given.absolute()))
        if path.is_dir():
            content = files_in(path)
            for file in content.files:
                if not file.is_file():
                    raise FilesProblem(f"{file} cannot be read: it is no plain file; remove it from the folder")
            images += content.files
            skipped += content.skipped
            roots.append(path)
        elif not path.is_file():
            raise FilesProblem(f"{given} does not exist")
        elif is_image(path):
            images.append(path)
            roots.append(path.parent)
        else:
            others.append(path)
    if not images and not others:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise FilesProblem(f"no image was found: expected files that end in {suffixes}, an archive or an array file")
    base = os.path.commonpath(roots) if roots else ""
    by_name = {path.relative_to(base).as_posix(): path for path in images}
    return by_name | {path.relative_to(base).as_posix(): EMPTY for path in skipped}, others


def size_of(file: BinaryIO) -> int:
    """Return the bytes of an open file, whatever its position."""
    return os.fstat(file.fileno()).st_size


class TarStream:
    """Readable stream of an uncompressed tar archive, which is never held as a whole."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._pieces = _tar_pieces(files)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Raise ``FilesProblem`` if a file became shorter."""
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class ByteCounter:
    """Counter of the bytes of an upload, which reports them after every read."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


class CountedStream:
    """Readable stream that counts the bytes read."""

    def __init__(self, stream: _Readable, counter: ByteCounter) -> None:
        self._stream = stream
        self._counter = counter

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._counter.add(len(data))
        return data

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(CHUNK_BYTES):
            yield piece


class CountedFile(CountedStream):
    """Open file that counts the bytes read, of ``size`` at most: the length of a request is sent first."""

    def __init__(self, file: BinaryIO, counter: ByteCounter, size: int) -> None:
        super().__init__(file, counter)
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        """Raise ``FilesProblem`` if the file became shorter."""
        wanted = min(size, self._left)
        data = super().read(wanted)
        if wanted and not data:
            raise _shortened(self._file.name)
        self._left -= len(data)
        return data

    def fileno(self) -> int:
        """Return the descriptor, by which httpx finds the length."""
        return self._file.fileno()


def _tar_pieces(files: dict[str, Path]) -> Iterator[bytes]:
    for name, path in files.items():
        with path.open("rb") as file:
            member = tarfile.TarInfo(name)
            member.size = left = size_of(file)
            yield member.tobuf(tarfile.PAX_FORMAT)
            while left:
                piece = file.read(min(CHUNK_BYTES, left))
                if not piece:
                    raise _shortened(path)
                left -= len(piece)
                yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _shortened(path: Path | str) -> FilesProblem:
    return FilesProblem(f"{path} became shorter while it was read; send the files again")
