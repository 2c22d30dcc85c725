"""Archives that are damaged, encrypted or of unusual form."""

from __future__ import annotations

import itertools
import lzma
import tarfile

from snf_runtime.images.codec import encode_png
from tests.models.datasets.sample_files import (
    DIGITS,
    pngs,
    tarred,
    zipped,
)

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
