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
    """Files in a folder and its subfolders, split into possible images and skipped files.

    They are in natural order. The skipped files are only counted.

    Attributes:
        files: Files that may be images. Links that lead nowhere, pipes, and folders that cannot be listed are among
            them, so that reading them says what is wrong.
        skipped: Hidden files, files of systems, and texts: their names are no images'.
    """

    files: list[Path]
    skipped: list[Path]

    @property
    def note(self) -> str | None:
        """A sentence that counts the skipped files and names up to three; None if none was skipped."""
        if not self.skipped:
            return None
        count = "1 file was" if len(self.skipped) == 1 else f"{len(self.skipped)} files were"
        names = ", ".join(path.name for path in self.skipped[:3]) + (", ..." if len(self.skipped) > 3 else "")
        return f"{count} skipped, as hidden files, files of systems and texts are: {names}"


def is_image(path: Path) -> bool:
    """Return whether a path has the suffix of an image file, such as .png or .TIFF."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_no_image(path: PurePath) -> bool:
    """Return whether the name of a file shows that it is not an image.

    A file of a folder is then skipped, and only counted.

    Such files are hidden, made by a system, or texts. All other files are judged, whatever their names.

    Args:
        path: Path relative to the folder.
    """
    name = path.name.lower()
    hidden = any(part.startswith(".") or part == SYSTEM_FOLDER for part in path.parts)
    return hidden or name in SYSTEM_FILES or name.endswith(TEXT_SUFFIXES)


def natural_order(path: PurePath) -> tuple[tuple[tuple[str | int, ...], ...], str]:
    """Return a sort key that orders paths naturally, so that 2 comes before 10.

    Paths are compared folder by folder, and runs of digits by their number.

    The console sorts dropped folders in the same way (``js/score/natural_order.js``).

    >>> sorted(map(PurePath, ["a/10.png", "a/2.png", "a/02.png"]), key=natural_order)
    [PurePosixPath('a/02.png'), PurePosixPath('a/2.png'), PurePosixPath('a/10.png')]
    """
    parts = (re.split("([0-9]+)", part) for part in path.parts)
    key = tuple(tuple(int(run) if place % 2 else run for place, run in enumerate(runs)) for runs in parts)
    return key, path.as_posix()


def files_in(folder: Path) -> FolderFiles:
    """Return all files under a folder in natural order, split into possible images and skipped files.

    Links to folders are not followed.
    """
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
    """Find the files to upload among given paths, and return images and other files separately.

    The other files are those that were given without the suffix of an image, such as archives and arrays. All files of
    a folder count as images, except those that ``is_no_image`` skips.

    Args:
        paths: Files, and folders that are searched for images.

    Returns:
        The images by name, and the other files. The name of an image is its path relative to the deepest folder that
        all images have in common, so that images of one folder stay a group. Files of a folder whose names are no
        images' are there with an empty file in their place: their names are counted, and their content is not read.

    Raises:
        FilesProblem: If a path does not exist or cannot be read, or no file was found.
    """
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
    """Return the total size in bytes of an open file on disk, independent of its read position."""
    return os.fstat(file.fileno()).st_size


class TarStream:
    """Readable stream of a tar archive that is built from files on the fly.

    The archive is not compressed and never held as a whole.

    Args:
        files: The files by their names in the archive.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._pieces = _tar_pieces(files)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes of the archive, at most ``size`` of them; empty bytes mean its end.

        Raises:
            FilesProblem: If a file became shorter while it was read.
        """
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class ByteCounter:
    """Counter of the bytes sent in an upload, which reports them to a progress function.

    Args:
        progress: Function that is called after every read; None: no function.
        total: Bytes in all.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        """Add ``count`` to the number of bytes sent in an upload, and call its progress function.

        The progress function, if there is one, gets the bytes so far and the bytes in all.
        """
        self._done += count
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


class CountedStream:
    """Wrapper of a readable stream that counts the bytes read from it, to report upload progress.

    Each read adds its number of bytes to a ``ByteCounter``.
    """

    def __init__(self, stream: _Readable, counter: ByteCounter) -> None:
        self._stream = stream
        self._counter = counter

    def read(self, size: int) -> bytes:
        """Return the next bytes of the stream, at most ``size``, and count them; empty bytes mean its end."""
        data = self._stream.read(size)
        self._counter.add(len(data))
        return data

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(CHUNK_BYTES):
            yield piece


class CountedFile(CountedStream):
    """Wrapper of an open file on disk that counts the bytes read from it, to report upload progress.

    Each read adds its number of bytes to a ``ByteCounter``. What is appended to the file meanwhile is not read, because
    the length of a request is sent first.

    Args:
        file: The file.
        counter: Counter of the bytes.
        size: Bytes to read.
    """

    def __init__(self, file: BinaryIO, counter: ByteCounter, size: int) -> None:
        super().__init__(file, counter)
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        """Return the next bytes of the file, at most ``size``, and count them; empty bytes mean its end.

        Raises:
            FilesProblem: If the file became shorter while it was read.
        """
        wanted = min(size, self._left)
        data = super().read(wanted)
        if wanted and not data:
            raise _shortened(self._file.name)
        self._left -= len(data)
        return data

    def fileno(self) -> int:
        """Return the descriptor of the wrapped file; httpx calls this method to find the file's length."""
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
