"""Archives and arrays of real digits, sound and malformed, made by hand."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from snf_models.datasets import Source
from snf_runtime.images.codec import encode_png
from tests.models.helpers import real_images

DIGITS = real_images(120)


def pngs(count: int, folders: int = 1, start: int = 0) -> dict[str, bytes]:
    """Digits as PNG files, spread over folders."""
    return {f"lot{index % folders}/{index:03d}.png": encode_png(DIGITS[index]) for index in range(start, start + count)}


def mixed(count: int = 60, folders: int = 6) -> dict[str, bytes]:
    """Real digits of mixed sizes, formats and modes: shrunken, stretched, tinted, in six folders."""
    files = {}
    for index in range(count):
        image = Image.fromarray(DIGITS[index, 0]).resize((24 + index % 7 * 4, 20 + index % 5 * 6))
        kind = ("PNG", "JPEG", "BMP", "WEBP")[index % 4]
        if index % 3 == 0:
            red = image.point(lambda value: value // 2)
            image = Image.merge("RGB", (red, image, image))
        content = io.BytesIO()
        image.save(content, kind, **({"lossless": True} if kind == "WEBP" else {}))
        files[f"lot{index % folders}/{index:02d}.{kind.lower()}"] = content.getvalue()
    return files


def zipped(files: Mapping[str, bytes] | Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = 0) -> bytes:
    """A zip; pairs may repeat a name or carry a whole ``ZipInfo``."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            archive.writestr(name, data, method)
    return content.getvalue()


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def tarred(
    files: Mapping[str, bytes], packing: str = "", special: tarfile.TarInfo | None = None, twice: str | None = None
) -> bytes:
    """A tar, packed by gz, bz2 or xz; ``special`` stands at its end, and the file ``twice`` there once more."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{packing}") as archive:  # type: ignore[call-overload]
        for name, data in [*files.items(), *([(twice, files[twice])] if twice else [])]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if special is not None:
            archive.addfile(special, io.BytesIO(bytes(special.size)))
    return content.getvalue()


def tar_member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def npy(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npz(**arrays: np.ndarray) -> bytes:  # type: ignore[type-arg]
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def source(folder: Path, data: bytes, filename: str = "upload.zip") -> Source:
    """Put ``data`` into ``folder`` as an upload would, under a name of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / f"part-{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    return Source(path, filename)
