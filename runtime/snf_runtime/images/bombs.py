"""Checks for image files that take far more time or memory to decode than their pixels need."""

from __future__ import annotations

import re

from PIL import ImageFile, PngImagePlugin

from snf_runtime.errors import unsupported_image
from snf_runtime.images.tiff import TiffFile, check_tile

PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20
"""Bytes of all texts of a PNG file after decompression."""
MAX_PROFILES = 8
"""Places of a PNG file where the name of its colour profile may stand."""
MAX_SCANS = 64
"""Scans of a JPEG file. Progressive files have about ten, and each scan passes over all pixels."""
MAX_SEGMENTS = 4096
"""Segments of a JPEG file that are looked at for scans. A segment has up to 64 KiB."""
END, START_OF_SCAN = 0xD9, 0xDA
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""A marker that begins a segment or ends the file. libjpeg reads no length after other markers: it skips them."""
RUN_LENGTHS = {1, 2}
"""Compression of BMP files by run lengths of 8 and of 4 bits, which Pillow decodes in Python code."""


def check_cost(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise ``ImageError`` if decoding would take far more time or memory than the pixels of the file need."""
    if isinstance(image, TiffFile):
        check_tile(image)
    match image.format:
        case "BMP":
            if image.info.get("compression") in RUN_LENGTHS:
                raise unsupported_image("expected a BMP file without run-length encoding; save it as PNG")
        case "JPEG" | "MPO":
            if has_many_scans(data):
                raise unsupported_image(f"expected a JPEG file of at most {MAX_SCANS} scans, got more; save it anew")
        case "PNG":
            if data.count(b"iCCP") > MAX_PROFILES:
                raise unsupported_image("expected a PNG file of one colour profile, got several; save it anew")


def has_many_scans(data: bytes) -> bool:
    """Return whether a JPEG file has more than 64 scans, or too many segments to count them, by its markers."""
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return False
    position = scans = 0
    for _ in range(MAX_SEGMENTS):
        marker = MARKER.search(data, position)
        if marker is None or marker[1][0] == END:
            return False
        scans += marker[1][0] == START_OF_SCAN
        if scans > MAX_SCANS:
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return True
