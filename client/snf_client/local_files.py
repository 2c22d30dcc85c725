"""Files on this machine: the images in folders, and streams for uploads that report their progress."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
CHUNK_BYTES = 2**16

Progress: TypeAlias = Callable[[int, int], None]
"""Function that is called with the bytes that were sent and the bytes in all."""


class FilesProblem(ValueError):
    """Raised when a path to upload does not exist, no image is found, or a file gets shorter while it is read."""


def is_image(path: Path) -> bool:
    """Return whether a path ends in .png, .jpg, .jpeg, .webp or .bmp, in upper or lower case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """Return the files in a folder and all its subfolders that have the suffix of an image, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())


def split_paths(paths: list[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Find the image files in paths and folders; return them by name, and all other files (archives and arrays).

    Args:
        paths: Files, and folders that are searched for images.

    Returns:
        The images by name, and the other files. The name of an image is its path relative to the deepest folder that
        all images have in common, so that images of one folder stay a group.

    Raises:
        FilesProblem: If a path does not exist or no file was found.
    """
    images: list[Path] = []
    others: list[Path] = []
    roots: list[Path] = []
    for given in paths:
        path = Path(os.path.normpath(given.absolute()))
        if path.is_dir():
            images += images_in(path)
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
    return {path.relative_to(base).as_posix(): path for path in images}, others


def size_of(file: BinaryIO) -> int:
    """Return the size in bytes of an open file on disk, wherever its read position is."""
    return os.fstat(file.fileno()).st_size


class TarStream:
    """Readable stream of an uncompressed tar archive, built from files while it is read and never held as a whole.

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
    """Counter of the bytes sent in an upload, which calls a function with the bytes so far and the bytes in all.

    Args:
        progress: Function that is called after every read; None: no function.
        total: Bytes in all.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, count: int) -> None:
        """Add ``count`` bytes and call the progress function, if there is one, with the bytes so far and in all."""
        self._done += count
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


class CountedStream:
    """Wrapper of a readable stream that adds each read's bytes to a ``ByteCounter``, to report upload progress."""

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
    """Wrapper of an open file on disk that adds each read's bytes to a ``ByteCounter``, to report upload progress."""

    def __init__(self, file: BinaryIO, counter: ByteCounter) -> None:
        super().__init__(file, counter)
        self._descriptor = file.fileno()

    def fileno(self) -> int:
        """Return the descriptor of the wrapped file; httpx calls this method to find the file's length."""
        return self._descriptor


def _tar_pieces(files: dict[str, Path]) -> Iterator[bytes]:
    for name, path in files.items():
        with path.open("rb") as file:
            member = tarfile.TarInfo(name)
            member.size = left = size_of(file)
            yield member.tobuf(tarfile.PAX_FORMAT)
            while left:
                piece = file.read(min(CHUNK_BYTES, left))
                if not piece:
                    raise FilesProblem(f"{path} became shorter while it was read; send the files again")
                left -= len(piece)
                yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
