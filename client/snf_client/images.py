"""Images of requests, heat maps of answers, and files of this machine for uploads."""

from __future__ import annotations

import base64
import io
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from snf_client.schemas.scores import HeatMap

Pixels = npt.NDArray[np.uint8]
ImageLike: TypeAlias = str | Path | bytes | Image.Image | Pixels
"""A file's path, its bytes, a PIL image, or uint8 pixels of shape (H, W) or (H, W, C)."""
ImagesLike: TypeAlias = ImageLike | Iterable[ImageLike]
"""One image, several, or an array of several of shape (N, H, W) or (N, H, W, C)."""

CHANNELS = (1, 3, 4)
"""Lengths of a last axis that are channels: shape (28, 28, 3) is one image, shape (28, 28, 28) is 28 images."""
NPY = "application/x-npy"
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
MAX_FILE_BYTES = 64 * 2**20  # bytes of an image file at most, the limit of the service for a file of a dataset, too


class UnreadableFile(Exception):
    """Raised when a local image file is not a plain file or is too large.

    ``type`` and ``title`` are those of the error in the result of the image.
    """

    def __init__(self, type: str, title: str, detail: str) -> None:
        super().__init__(f"{title}: {detail}")
        self.type = type
        self.title = title
        self.detail = detail


@dataclass(frozen=True)
class ImageBatch:
    """Images of one request: arrays of the same shape, or any mix of paths, bytes and PIL images."""

    images: tuple[ImageLike, ...]

    @property
    def names(self) -> list[str | None]:
        """The path of each image; None for one without a file."""
        return [_path_text(image) if isinstance(image, str | Path) else None for image in self.images]

    def body(self) -> dict[str, Any]:
        """Return the body as keywords of ``httpx``: ``content`` of arrays or ``files``, which are read here."""
        if isinstance(self.images[0], np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, np.stack(self.images))  # type: ignore[arg-type]
            return {"content": buffer.getvalue(), "headers": {"Content-Type": NPY}}
        return {"files": [("images", (_name(image, index), _encode(image))) for index, image in enumerate(self.images)]}

    def halves(self) -> tuple[ImageBatch, ImageBatch]:
        middle = len(self.images) // 2
        return ImageBatch(self.images[:middle]), ImageBatch(self.images[middle:])


def batches(images: ImagesLike, size: int) -> Iterator[ImageBatch]:
    """Split images, as they are asked for, into batches; one also ends where kind or shape of arrays changes."""
    for _, alike in groupby(iter_images(images), _array_shape):
        while batch := tuple(islice(alike, size)):
            yield ImageBatch(batch)


def iter_images(images: ImagesLike) -> Iterator[ImageLike]:
    """Yield images one by one; raise ``TypeError`` for an unsupported type, ``ValueError`` for another shape."""
    if isinstance(images, np.ndarray):
        several = images.ndim == 4 or (images.ndim == 3 and images.shape[-1] not in CHANNELS)
        yield from map(_check_array, images if several else [images])
    elif isinstance(images, str | Path | bytes | Image.Image):
        yield images
    elif isinstance(images, Iterable):
        for image in images:
            if isinstance(image, np.ndarray):
                yield _check_array(image)
            elif isinstance(image, str | Path | bytes | Image.Image):
                yield image
            else:
                raise TypeError(f"expected a path, bytes, a PIL image or an array, got {type(image).__name__}")
    else:
        raise TypeError(f"expected images, got {type(images).__name__}")


def heat_map_array(heat_map: HeatMap) -> npt.NDArray[np.float64]:
    """Decode a heat map to an array of shape ``(channels, H, W)``.

    The type is float64. ``heat_map.channels`` names the channels.

    The first channel holds the contribution of every pixel to the log-likelihood in nats: its sum is the
    log-likelihood of the image, with several draws that of the first draw.

    >>> from snf_client import Client, heat_map_array
    >>> def log_likelihood(model: str, path: str) -> float:
    ...     with Client() as client:
    ...         [image] = client.score(model, path, explain=True).results
    ...     assert image.status == "ok" and image.heat_map is not None
    ...     return float(heat_map_array(image.heat_map)[0].sum())  # image.log_likelihood
    """
    array: npt.NDArray[np.float64] = np.load(io.BytesIO(base64.b64decode(heat_map.npy)), allow_pickle=False)
    return array


def heat_map_png(heat_map: HeatMap) -> bytes:
    """Return a heat map as PNG bytes: the grey image under coloured pixels.

    Red pixels are less likely than usual.

    Regions are outlined in yellow.
    """
    return base64.b64decode(heat_map.png)


def _check_array(array: Pixels) -> Pixels:
    if array.dtype != np.uint8:
        raise TypeError(f"expected an array of uint8, got {array.dtype}")
    if array.ndim == 2:
        return array
    if array.ndim != 3 or array.shape[-1] not in CHANNELS:
        raise ValueError(f"expected an image of shape (H, W) or (H, W, C), got {array.shape}")
    return array[:, :, 0] if array.shape[-1] == 1 else array


def _array_shape(image: ImageLike) -> tuple[int, ...] | None:
    return image.shape if isinstance(image, np.ndarray) else None


def _name(image: ImageLike, index: int) -> str:
    return _path_text(image) if isinstance(image, str | Path) else f"image-{index}"


def _path_text(path: str | Path) -> str:
    # Names of files need not be UTF-8, JSON must be.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _encode(image: ImageLike) -> bytes:
    match image:
        case bytes():
            return image
        case Image.Image():
            return _encode_pil(image)
        case str() | Path():
            return _read(Path(image))
    raise TypeError(f"expected a file or a PIL image, got an array of shape {image.shape}")


def _encode_pil(image: Image.Image) -> bytes:
    """Return a PIL image as a file, upright as its EXIF orientation says. TIFF has the modes that PNG lacks."""
    buffer = io.BytesIO()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in PNG_MODES:
        upright.save(buffer, "PNG", compress_level=1)
    else:
        upright.save(buffer, "TIFF")
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    """Return the content of a file. A pipe would block for ever, and a huge file fill the memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile("unreadable-image", "The file cannot be read", "expected a plain file, no folder or pipe")
    if status.st_size > MAX_FILE_BYTES:
        raise UnreadableFile("file-too-large", "The file is too large", f"at most {MAX_FILE_BYTES} bytes are taken")
    return path.read_bytes()


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


class UploadStream:
    """Readable stream of an upload, of which one piece at a time is in memory."""

    def __init__(self, pieces: Iterator[bytes], count: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._count = count
        self._rest = b""

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Raise ``FilesProblem`` if a file became shorter."""
        while not self._rest and (piece := next(self._pieces, None)) is not None:
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        self._count(len(data))
        return data

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")


class FileStream(UploadStream):
    """Stream of the first ``size`` bytes of an open file: the length of a request is sent first."""

    def __init__(self, file: BinaryIO, size: int, count: Callable[[int], None]) -> None:
        super().__init__(_file_pieces(file, size), count)
        self._file = file

    def fileno(self) -> int:
        """Return the descriptor, by which httpx finds the length."""
        return self._file.fileno()


def byte_counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a function of newly sent bytes that reports all of them."""
    done = 0

    def count(sent: int) -> None:
        nonlocal done
        done += sent
        if progress is not None:
            progress(min(done, total), total)

    return count


def tar_pieces(files: dict[str, Path]) -> Iterator[bytes]:
    """Yield an uncompressed tar archive of files by their names."""
    for name, path in files.items():
        with path.open("rb") as file:
            member = tarfile.TarInfo(name)
            member.size = size_of(file)
            yield member.tobuf(tarfile.PAX_FORMAT)
            yield from _file_pieces(file, member.size)
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _file_pieces(file: BinaryIO, left: int) -> Iterator[bytes]:
    while left:
        piece = file.read(min(CHUNK_BYTES, left))
        if not piece:
            raise FilesProblem(f"{file.name} became shorter while it was read; send the files again")
        left -= len(piece)
        yield piece
