"""Reading of uploads one item at a time. The kind of a file is recognised by its first bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from snf_models.datasets.ingest.compressed_tar import read_tar
from snf_models.datasets.ingest.items import Ignored, Item, Rejected, refused, safe_path
from snf_models.datasets.ingest.limits import UploadMeter
from snf_models.datasets.ingest.members import read_member
from snf_models.datasets.ingest.npy_files import npz_images, read_npy_file
from snf_models.datasets.ingest.zip_files import open_zip, zip_files
from snf_models.errors import DatasetRefused
from snf_runtime.images.policy import is_no_image

MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x93NUMPY": "npy",
    b"\x1f\x8b": "tar",
    b"BZh": "tar",
    b"\xfd7zXZ\x00": "tar",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
IMAGE = "image"


@dataclass(frozen=True)
class Source:
    """An uploaded file; ``filename`` is as it was sent, and never used as a path."""

    path: Path
    filename: str


def read_sources(sources: Sequence[Source], meter: UploadMeter) -> Iterator[Item]:
    kinds = [_kind(source.path) for source in sources]
    labels = [ascii(PurePosixPath(source.filename).name)[1:-1] for source in sources]
    archives = [(label, kind) for label, kind in zip(labels, kinds, strict=True) if kind != IMAGE]
    # Archives may have files of the same name: where there are several, each has a folder.
    folders = iter(_folders(archives) if len(archives) > 1 else [""])
    before = 0
    for source, label, kind in zip(sources, labels, kinds, strict=True):
        meter.file = label or kind
        if kind == IMAGE:
            yield _image(source, meter)
        elif kind in READERS:
            yield from READERS[kind](source.path, label or kind, meter, next(folders))
        else:
            detail = f"{label or kind} is a {kind} archive, expected zip, tar, npz or npy"
            raise refused("unsupported-archive", detail)
        before += source.path.stat().st_size
        meter.done = before


def _folders(archives: Sequence[tuple[str, str]]) -> list[str]:
    """Return a different folder name with a ``/`` for each archive of ``(name, kind)``, as short as can be.

    >>> _folders([("lot.01.zip", "zip"), ("lot.02.zip", "zip"), ("b.zip", "zip"), ("b.zip", "zip"), ("c.tar", "tar")])
    ['lot.01.zip/', 'lot.02.zip/', 'b.zip-3/', 'b.zip-4/', 'c/']
    """
    # A folder must not be named "..", and its name should not begin with a dot.
    names = [f"{kind}{label}" if not label or label.startswith(".") else label for label, kind in archives]
    forms = [(name.split(".")[0], name, f"{name}-{number}") for number, name in enumerate(names, 1)]
    uses = Counter(form for three in forms for form in set(three))
    return [next((form for form in three if uses[form] == 1), three[-1]) + "/" for three in forms]


def _read_zip(path: Path, filename: str, meter: UploadMeter, within: str) -> Iterator[Item]:
    """Read a zip archive, or an .npz if all its members are arrays."""
    with open_zip(path, filename, meter) as (archive, members):
        if members and all(name.endswith(".npy") for name in members):
            yield from npz_images(archive, members, filename, meter, within)
        else:
            yield from zip_files(archive, members, meter, within)


READERS = {"zip": _read_zip, "npy": read_npy_file, "tar": read_tar}


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), IMAGE)


def _image(source: Source, meter: UploadMeter) -> Item:
    meter.add_file()
    try:
        path = safe_path(source.filename)
    except DatasetRefused as error:
        return Rejected(ascii(source.filename)[1:80], "unsafe-name", error.detail)
    if is_no_image(path):
        return Ignored(path)
    with source.path.open("rb") as file:
        return read_member(path, file, meter)
