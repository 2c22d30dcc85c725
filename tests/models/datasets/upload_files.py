"""Archives and arrays of real digits, sound and malformed, made by hand."""

import gzip
import io
import itertools
import lzma
import stat
import struct
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
    with tarfile.open(fileobj=content, mode=f"w:{packing}") as archive:
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


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def source(folder: Path, data: bytes, filename: str = "upload.zip") -> Source:
    """Put ``data`` into ``folder`` as an upload would, under a name of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / f"part-{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    return Source(path, filename)


MIB = 2**20


def npy_of(shape: str, data: bytes = b"", descr: str = "'|u1'", padding: int = 0) -> bytes:
    """A .npy file (version 2.0) with ``shape`` as its header says it, and ``padding`` blanks in the header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * padding + b"\n"
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + data


def npz_of(**arrays: bytes) -> bytes:
    """A deflated .npz of .npy files that are made already."""
    return zipped({f"{name}.npy": data for name, data in arrays.items()}, zipfile.ZIP_DEFLATED)


def endless_groups(size: int) -> bytes:
    """A .npz with ``size`` bytes of groups, a negative number of them, which once meant 'as many as there are'."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy(DIGITS[:12, 0]))
        with archive.open("group.npy", "w") as member:
            member.write(npy_of("(-1,)", descr="'<i8'"))
            for _ in range(size // MIB):
                member.write(bytes(MIB))
    return content.getvalue()


def zip_of_entries(count: int, said: int | None = None, *, large: bool = False) -> bytes:
    """A zip whose directory has entries, and whose end record says another number; ``large``: in format zip64."""
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 7) + bytes(16)
    directory = b"".join(b"%b%07d" % (entry, number) for number in range(count))
    said = count if said is None else said
    size = len(directory)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, said & 0xFFFF, said & 0xFFFF, size, 0, 0)
    if large:
        record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, said, said, size, 0)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, size, 1)
        end = record + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return directory + end


def white_images(count: int) -> bytes:
    """A zip of ``count`` images of 16 million pixels: 16 kB and some 0.1 s of honest work each."""
    content = io.BytesIO()
    Image.new("L", (4096, 4096), 255).save(content, "PNG")
    return zipped({f"{index}.png": content.getvalue() for index in range(count)})


def headed(kind: bytes, content: bytes, times: int = 1, size: int | None = None) -> bytes:
    """A tar of 12 images behind ``times`` extended headers of one kind."""
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, len(content)
    if size is not None:
        header.size = size
    block = header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    return block * times + tarred(pngs(12))


def pax(records: Mapping[str, str]) -> bytes:
    """The content of a pax header."""
    content = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record)
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        content += f"{length}".encode() + record
    return content


def tar_in_order(headers: int) -> bytes:
    """A tar whose every image has its own global header."""
    content = io.BytesIO()
    for index, (name, data) in enumerate(pngs(headers).items()):
        record = pax({f"comment{index}": "x" * 100})
        for kind, title, part in ((tarfile.XGLTYPE, "header", record), (tarfile.REGTYPE, name, data)):
            info = tarfile.TarInfo(title)
            info.type, info.size = kind, len(part)
            content.write(info.tobuf(tarfile.GNU_FORMAT) + part + bytes(-len(part) % tarfile.BLOCKSIZE))
    return content.getvalue() + bytes(1024)


def _sparse_member() -> bytes:
    """A member in GNU's old form for files with holes."""
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


DIGITS_HEADER = gzip.compress(headed(tarfile.XHDTYPE, b"1" * 100_000)[:101_000], mtime=0)
"""A pax header of 100,000 digits: some ten seconds of quadratic time in Python before 3.11.10 and 3.12.6."""
TARS: dict[str, tuple[bytes, str, str]] = {
    "pax digits": (DIGITS_HEADER, "unsafe-archive", "a header has more than 8192 bytes"),
    "pax global": (headed(tarfile.XGLTYPE, bytes(9000)), "unsafe-archive", "a header has more than"),
    "pax Solaris": (headed(tarfile.SOLARIS_XHDTYPE, bytes(9000)), "unsafe-archive", "a header has more than"),
    "long name": (headed(tarfile.GNUTYPE_LONGNAME, b"a" * 9000), "unsafe-archive", "a header has more than"),
    "long link": (headed(tarfile.GNUTYPE_LONGLINK, b"a" * 9000), "unsafe-archive", "a header has more than"),
    "header of 8 GiB": (headed(tarfile.XHDTYPE, b"", size=8**11 - 1), "unsafe-archive", "a header has more than"),
    "many headers": (headed(tarfile.GNUTYPE_LONGNAME, b"a", times=500), "unsafe-archive", "follow each other"),
    "many global headers": (tar_in_order(40), "unsafe-archive", "global headers"),
    "sparse": (_sparse_member(), "unsafe-archive", "sparse file"),
    "pax sparse": (
        headed(tarfile.XHDTYPE, pax({"GNU.sparse.map": "0,1," * 400 + "0,1"})),
        "unsafe-archive",
        "not a plain file",
    ),
    # Versions of Python since 2026 find this themselves.
    "pax negative size": (
        headed(tarfile.XHDTYPE, pax({"size": "-1024"})),
        "malformed-archive",
        "negative size|invalid offset",
    ),
    "pax global negative size": (
        headed(tarfile.XGLTYPE, pax({"size": "-1024"})),
        "malformed-archive",
        "negative size",
    ),
    "negative size": (headed(tarfile.XHDTYPE, b"", size=-512), "malformed-archive", "negative size"),
}

ARRAYS: dict[str, tuple[bytes, str]] = {
    "negative groups": (endless_groups(16 * MIB), "sides"),
    "groups of long names": (
        npz_of(images=npy(DIGITS[:12, 0]), group=npy_of("(12,)", bytes(16 * MIB), "'<U1398101'")),
        "groups of 1 to 1024 characters",
    ),
    "groups without characters": (npz_of(images=npy(DIGITS[:12, 0]), group=npy_of("(12,)", b"", "'<U0'")), "groups of"),
    "groups beyond Unicode": (
        npz_of(images=npy(DIGITS[:12, 0]), group=npy_of("(12,)", b"a\0\0\0\xff\xff\xff\xff" * 12, "'<U2'")),
        "not characters",
    ),
    "groups beyond Unicode, big end first": (
        npz_of(images=npy(DIGITS[:12, 0]), group=npy_of("(12,)", b"\0\0\0a\0\x11\0\0" * 12, "'>U2'")),
        "not characters",
    ),
    "huge header": (
        npz_of(images=npy_of("(12, 28, 28)", padding=16 * MIB)),
        "expected a header of at most 10000 bytes",
    ),
    "huge header alone": (npy_of("(12, 28, 28)", padding=8 * MIB), "expected a header of at most 10000 bytes"),
    "header that lies": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", "expected a header of at most 10000 bytes"),
    "negative images": (npy_of("(-12, 28, 28)", bytes(12 * 784)), "sides"),
    "two negative sides": (npy_of("(12, -28, -28)", bytes(12 * 784)), "sides"),
    "overlong side": (npy_of(f"({2**63}, 28, 28)", bytes(784)), "sides"),
    "side of a thousand digits": (npy_of(f"({'9' * 1000}, 28, 28)", bytes(784)), "sides"),
    "overflowing shape": (npy_of(f"({2**60}, 28, 28)", bytes(784)), "2^63"),
    "overlong side beside an empty one": (npy_of(f"(0, {2**64}, 28)"), "sides"),
    "side that is true": (npy_of("(True, 28, 28)", bytes(784)), "sides"),
    "no images": (npy_of("(0, 28, 28)"), "sides of 1 to 4096"),
    "too many dimensions": (npy_of(f"({'1, ' * 33})", b"1"), "expected at most 32 dimensions, got 33"),
    "huge element": (npy_of("(12, 28, 28)", b"", "'|V2147483647'"), "expected uint8"),
    "structure": (npy_of("(12, 28, 28)", b"", "[('a', '|u1'), ('b', '|u1', (2, 2))]"), "records"),
    "structure that is none": (npy_of("(12, 28, 28)", b"", "[('a',), 7]"), "not an array"),
    "deep brackets": (npy_of("(" * 4000 + ")" * 4000), "not an array"),
    "deep signs": (npy_of("-" * 9000 + "1"), "not an array"),
    "version": (b"\x93NUMPY\x09\x00" + npy_of("(12, 28, 28)")[8:], "not an array"),
}


GOOD = pngs(12)
PNG = encode_png(DIGITS[0])


def with_name(name: str) -> bytes:
    return zipped({**GOOD, name: PNG})


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def encrypted() -> bytes:
    data = bytearray(zipped(GOOD))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(signature)
        data[start + offset] |= 1
    return bytes(data)


def bad_crc() -> bytes:
    data = bytearray(zipped(GOOD))
    data[data.index(b"IDAT") + 8] ^= 0xFF
    return bytes(data)


def huge_pax_header() -> bytes:
    """A header of 8 MiB before the first file, packed to a few kilobytes."""
    member = tarfile.TarInfo("a.png")
    member.pax_headers = {"comment": "x" * 2**23}
    return tarred({}, "gz", member)


def invalid_header() -> bytes:
    data = bytearray(tarred(GOOD))
    data[1024 + 148 : 1024 + 156] = b"garbage!"
    return bytes(data)


def in_xz_streams(data: bytes) -> bytes:
    """Return ``data`` as ``pxz`` and ``cat`` pack it: several xz streams, with zeros between some of them."""
    ends = [0, 100, 100, 5000, len(data)]
    streams = [lzma.compress(data[start:end]) for start, end in itertools.pairwise(ends)]
    return bytes(40_000).join([b"".join(streams[:3]), streams[3], b""])
