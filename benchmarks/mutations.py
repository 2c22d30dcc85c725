"""Small valid archives, arrays and image files, changed at random places; the same for the same number."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.models.datasets.sample_files import DIGITS, npy, npz, pngs, tarred, zipped
from tests.support.image_files import deep_png, encoded, exif, jpeg_of_scans, run_length_bmp, tiff

IMAGES = 12
EXTREMES = (0, 1, 127, 128, 255)
WIDE = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    bytes(4),
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
)
BLOCK = 512


def _image(form: str, index: int = 0) -> bytes:
    content = io.BytesIO()
    Image.fromarray(DIGITS[index, 0]).convert("RGB").save(content, form)
    return content.getvalue()


def _resummed(data: bytes) -> bytes:
    """Return a tar whose every block that looks like a header has the right checksum."""
    content = bytearray(data)
    for start in range(0, len(content) - BLOCK + 1, BLOCK):
        block = content[start : start + BLOCK]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(content)


VALID: dict[str, bytes] = {
    "zip": zipped(pngs(IMAGES, 3)),
    "zip deflated": zipped(pngs(IMAGES, 3), zipfile.ZIP_DEFLATED),
    "tar": tarred(pngs(IMAGES, 3)),
    "tar.gz": tarred(pngs(IMAGES, 3), "gz"),
    "tar.bz2": tarred(pngs(IMAGES, 3), "bz2"),
    "tar.xz": tarred(pngs(IMAGES, 3), "xz"),
    "npy": npy(DIGITS[:IMAGES, 0]),
    "npz": npz(images=DIGITS[:IMAGES, 0], group=np.arange(IMAGES) % 3),
}
PICTURES = {form: _image(form) for form in ("PNG", "JPEG", "WEBP", "BMP")}
WRAPPED: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "tar in gz": (tarred(pngs(IMAGES)), lambda data: gzip.compress(_resummed(data), 1, mtime=0)),
    "tar in bz2": (tarred(pngs(IMAGES)), lambda data: bz2.compress(_resummed(data), 1)),
    "tar in xz": (tarred(pngs(IMAGES)), lambda data: lzma.compress(_resummed(data), preset=0)),
    "tar with sums": (tarred(pngs(IMAGES)), _resummed),
    "npy in npz": (npy(DIGITS[:IMAGES, 0]), lambda data: zipped({"images.npy": data})),
    "groups in npz": (
        npy(np.array([f"lot {index % 3}" for index in range(IMAGES)])),
        lambda data: zipped({"images.npy": npy(DIGITS[:IMAGES, 0]), "group.npy": data}),
    ),
    **{
        f"{form} in zip": (
            data,
            lambda data: zipped({f"{n}.x": data if n < 2 else _image("PNG", n) for n in range(14)}),
        )
        for form, data in PICTURES.items()
    },
}
"""What is changed before it is packed, so that no checksum gives the change away."""


def mutation(index: int, seed: int = 0) -> tuple[str, list[tuple[str, bytes]]]:
    """Return a name and the files of one upload."""
    chance = np.random.default_rng([seed, index])
    kinds = [*VALID, *WRAPPED, *PICTURES]
    kind = kinds[index % len(kinds)]
    if kind in VALID:
        return kind, [("upload.bin", _changed(VALID[kind], chance))]
    if kind in WRAPPED:
        data, pack = WRAPPED[kind]
        return kind, [("upload.bin", pack(_changed(data, chance)))]
    spoilt = [(f"{n}.{kind.lower()}", _changed(PICTURES[kind], chance)) for n in range(3)]
    return f"{kind} files", [*spoilt, *pngs(IMAGES).items()]


def _files() -> dict[str, bytes]:
    """Return sound image files of every accepted format and depth; most are of a size that a model of 28x28 takes."""
    grey = DIGITS[0, 0]
    colour = np.stack([DIGITS[number, 0] for number in range(3)], axis=-1)
    deep = grey.astype(np.uint16) << 8
    wide = np.tile(colour, (2, 3, 1))

    def several(kind: str) -> bytes:
        return encoded(grey, kind, save_all=True, append_images=[Image.fromarray(255 - grey)])

    return {
        "grey PNG": encoded(grey),
        "colour PNG": encoded(wide),
        "palette PNG": encoded(grey, mode="P"),
        "PNG of 1 bit": encoded(grey, mode="1"),
        "PNG of 16 bits": encoded(deep),
        "colour PNG of 16 bits": deep_png(np.stack([deep] * 3, axis=-1)),
        "turned PNG": encoded(wide, exif=exif(6)),
        "animated PNG": several("PNG"),
        "grey JPEG": encoded(grey, "JPEG"),
        "colour JPEG": encoded(wide, "JPEG", exif=exif(6)),
        "progressive JPEG": encoded(wide, "JPEG", progressive=True),
        "CMYK JPEG": encoded(wide, "JPEG", mode="CMYK"),
        "JPEG of 40 scans": jpeg_of_scans(grey, 40),
        "JPEG with a preview": several("MPO"),
        "WebP": encoded(wide, "WEBP", exif=exif(6)),
        "lossless WebP": encoded(grey, "WEBP", lossless=True),
        "animated WebP": encoded(wide, "WEBP", save_all=True, append_images=[Image.fromarray(255 - wide)]),
        "grey BMP": encoded(grey, "BMP"),
        "colour BMP": encoded(wide, "BMP"),
        "run-length BMP": run_length_bmp(grey),
        "grey TIFF": encoded(grey, "TIFF"),
        "TIFF of 16 bits": encoded(deep, "TIFF", compression="tiff_lzw"),
        "big-endian TIFF": tiff(deep, ">"),
        "deflated TIFF": encoded(wide, "TIFF", compression="tiff_adobe_deflate"),
        "packed TIFF": encoded(wide, "TIFF", compression="packbits"),
        "JPEG in TIFF": encoded(wide, "TIFF", compression="jpeg"),
        "fax TIFF": encoded(grey, "TIFF", mode="1", compression="group4"),
        "CMYK TIFF": encoded(wide, "TIFF", mode="CMYK"),
        "TIFF of pages": several("TIFF"),
        "GIF": encoded(grey, "GIF"),
        "animated GIF": several("GIF"),
    }


FILES = _files()


def image_mutation(index: int, seed: int = 0) -> tuple[str, bytes]:
    """Return the kind and the content of an image file with faults; some are cut off."""
    chance = np.random.default_rng([seed, 1, index])
    kind = list(FILES)[index % len(FILES)]
    return kind, _changed(FILES[kind], chance)


def _changed(data: bytes, chance: np.random.Generator) -> bytes:
    """Return ``data`` after one to four random changes, mostly near its beginning or end, where headers are."""
    content = bytearray(data)
    for _ in range(int(chance.integers(1, 5))):
        near = int(chance.integers(0, 3))
        span = max(1, min(len(content), 600))
        place = int(chance.integers(0, len(content) if near == 0 else span)) if content else 0
        if near == 2:
            place = len(content) - 1 - place
        place = max(place, 0)
        match int(chance.integers(0, 7)):
            case 0:
                content[place : place + 1] = bytes(
                    [(content[place] if content else 0) ^ 1 << int(chance.integers(0, 8))]
                )
            case 1:
                content[place : place + 1] = bytes([EXTREMES[int(chance.integers(0, len(EXTREMES)))]])
            case 2:
                content[place : place + 4] = WIDE[int(chance.integers(0, len(WIDE)))]
            case 3:
                del content[place : place + int(chance.integers(1, 64))]
            case 4:
                content[place:place] = chance.bytes(int(chance.integers(1, 64)))
            case 5:
                length = int(chance.integers(1, 600))
                content[place:place] = content[place : place + length]
            case _:
                digits = b"0123456789-+ "
                content[place : place + 3] = bytes(digits[int(n)] for n in chance.integers(0, len(digits), 3))
    if chance.integers(0, 12) == 0:
        del content[int(chance.integers(0, len(content) + 1)) :]
    return bytes(content)
