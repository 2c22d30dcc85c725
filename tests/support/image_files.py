"""Image files of unusual kinds, made by Pillow or, where it cannot write them, by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

WIDE, HIGH = (28, 40), (40, 28)
FORMATS = {"u": 1, "i": 2, "f": 3}


def exif(orientation: int) -> Image.Exif:
    """Metadata with an orientation alone."""
    metadata = Image.Exif()
    metadata[ExifTags.Base.Orientation] = orientation
    return metadata


def encoded(pixels: NDArray[Any], kind: str = "PNG", mode: str | None = None, **settings: Any) -> bytes:
    """A file of pixels (H, W[, C]) by Pillow, after a change of mode if any."""
    image = Image.fromarray(pixels)
    if mode == "LAB":
        image = Image.merge("LAB", [image] * 3)
    elif mode is not None:
        image = image.convert(mode)
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def tiff(
    pixels: NDArray[Any], order: str = "<", *, white_is_zero: bool = False, subfile: int = 0, planes: bool = False
) -> bytes:
    """An uncompressed TIFF file of pixels (H, W[, C]) of any type of number, by hand, its channels in planes or not."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    ordered = np.moveaxis(pixels, -1, 0) if planes and samples > 1 else pixels
    data = ordered.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = samples if planes else 1
    bits, form = 8 * pixels.dtype.itemsize, FORMATS[pixels.dtype.kind]
    photometric = 2 if samples >= 3 else 0 if white_is_zero else 1
    short, long = 3, 4
    tags: list[tuple[int, int, list[int]]] = [
        (254, long, [subfile]),
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [bits] * samples),
        (259, short, [1]),
        (262, short, [photometric]),
        (273, long, [len(data) // strips * strip for strip in range(strips)]),
        (277, short, [samples]),
        (278, long, [height]),
        (279, long, [len(data) // strips] * strips),
        (284, short, [2 if planes else 1]),
        (339, short, [form] * samples),
    ]
    after = 8 + 2 + 12 * len(tags) + 4
    sizes = [len(values) * (2 if kind == short else 4) for _, kind, values in tags]
    outside = sum(size for size in sizes if size > 4)
    entries, aside = b"", b""
    for tag, kind, given in tags:
        values = [after + outside + start for start in given] if tag == 273 else given
        packed = struct.pack(order + ("H" if kind == short else "I") * len(values), *values)
        if len(packed) > 4:
            aside, packed = aside + packed, struct.pack(order + "I", after + len(aside))
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(tags))
    return head + entries + struct.pack(order + "I", 0) + aside + data


def png(width: int, height: int, depth: int, colour: int, data: bytes, transparent: bytes = b"") -> bytes:
    """A PNG file by hand, with any header; ``data`` are the rows, each after a byte 0."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    if transparent:
        header += chunk(b"tRNS", transparent)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def deep_png(pixels: NDArray[np.uint16], transparent: bytes = b"") -> bytes:
    """A PNG file of 16 bits of pixels (H, W) or (H, W, C), with 2 (grey and alpha), 3 or 4 channels."""
    height, width = pixels.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(width, height, 16, colour, rows, transparent)


def run_length_bmp(pixels: NDArray[np.uint8]) -> bytes:
    """A BMP file of pixels (H, W), each run of 8 bits encoded as its length and value, by hand."""
    height, width = pixels.shape
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    rows = (b"".join(bytes((1, int(value))) for value in row) + b"\0\0" for row in pixels[::-1])
    body = b"".join(rows) + b"\0\1"
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 2835, 2835, 256, 256)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + header + palette + body


def jpeg_of_scans(pixels: NDArray[np.uint8], scans: int, **settings: Any) -> bytes:
    """A progressive JPEG file of pixels (H, W) that refines its last coefficients in as many scans."""
    data = encoded(pixels, "JPEG", progressive=True, **settings)
    first, last, end = data.index(b"\xff\xda"), data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:last] + data[last:end] * (scans - data.count(b"\xff\xda", first) + 1) + data[end:]
