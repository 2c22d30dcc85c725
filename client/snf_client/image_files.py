"""Image files on this machine: found in folders, named from where they have in common, packed into a tar on the way."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
CHUNK = 2**16


class FilesProblem(ValueError):
    """The files that were named cannot be taken."""


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name."""
    return path.suffix.lower() in SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and its folders, sorted."""
    return sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())


def split_paths(paths: list[Path]) -> tuple[dict[str, Path], list[Path]]:
    """The images among `paths` and in their folders by name, and the other files, which are archives or arrays.

    An image's name is its path from the folder that all have in common, so that folders stay groups. Raises
    `FilesProblem`.
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
        raise FilesProblem("no image was found")
    base = os.path.commonpath(roots) if roots else ""
    return {path.relative_to(base).as_posix(): path for path in images}, others


class TarStream:
    """A tar of files by name, to be read piece by piece; no more than a piece is in memory."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._pieces = _tar_pieces(files)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def _tar_pieces(files: dict[str, Path]) -> Iterator[bytes]:
    for name, path in files.items():
        with path.open("rb") as file:
            member = tarfile.TarInfo(name)
            member.size = left = os.fstat(file.fileno()).st_size
            yield member.tobuf(tarfile.PAX_FORMAT)
            while left:
                piece = file.read(min(CHUNK, left))
                if not piece:
                    raise FilesProblem(f"{path} became shorter while it was read")
                left -= len(piece)
                yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
