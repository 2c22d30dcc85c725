"""Limits on image files that take far more time or memory to decode than their pixels need."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable

from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, TiffTags

from snf_runtime.errors import unsupported_image

FREE_READS = 1024
"""Reads of a file of any size: a header has about twenty; each marker, block and tag has its own, in slow Python."""
BYTES_A_READ = 256
"""Bytes of a file that allow one more read. A chunk of a PNG file has three reads, and usually 8 KiB."""
BYTES_A_SHORT_READ = 32  # bytes that allow one more read of a GIF or TIFF file, whose blocks and strips are small
STARTS_OF_SHORT_READS = (b"GIF8", b"II", b"MM")
READS_A_PAUSE = 64
"""Reads between two pauses for other threads: Pillow keeps the interpreter while it parses many small parts."""
PAUSE_S = 5e-5  # seconds of a pause. A sleep of 0 s is too short: the waiting threads have not woken up when it ends.


class DecodingAbandoned(BaseException):
    """Raised to stop decoding; no ``Exception``, as Pillow and the handlers of damaged files catch those."""


def never() -> bool:
    return False


class BoundedFile(io.BytesIO):
    """Image file in memory whose number of reads is limited by size and format; each read can abandon decoding."""

    def __init__(self, data: bytes, is_abandoned: Callable[[], bool] = never) -> None:
        super().__init__(data)
        bytes_a_read = BYTES_A_SHORT_READ if data.startswith(STARTS_OF_SHORT_READS) else BYTES_A_READ
        self._most = self._left = FREE_READS + len(data) // bytes_a_read
        self._is_abandoned = is_abandoned

    def read(self, size: int | None = -1, /) -> bytes:
        """Raise ``ImageError`` for a file in too many parts, ``DecodingAbandoned`` if it is no longer needed."""
        self._left -= 1
        if self._left < 0:
            raise unsupported_image(
                f"expected a file of at most {self._most} parts, as its size allows, got more; save it anew"
            )
        if self._is_abandoned():
            raise DecodingAbandoned
        if (self._most - self._left) % READS_A_PAUSE == 0:
            time.sleep(PAUSE_S)
        return super().read(size)


NEW_SUBFILE_TYPE = 254
WIDTH, LENGTH, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
FILL_ORDER, STRIP_OFFSETS = 266, 273
SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, COLOUR_MAP = 277, 284, 320
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 323, 324, 338, 339
PREVIEW, WHITE_IS_ZERO, UNCOMPRESSED, PLANES, LOW_BITS_FIRST, SIGNED = 1, 0, 1, 2, 2, 2
"""Values of the tags for kinds of pictures, colours, compressions, orders of channels and of bits, and numbers."""
ARRAYS = (STRIP_OFFSETS, TILE_OFFSETS, BITS_PER_SAMPLE, COLOUR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT)
"""Tags of several values that Pillow reads; from each offset it makes objects of hundreds of bytes."""
VALUE_BYTES = {3: 2, 4: 4, 16: 8}
"""Bytes of a value by the type of the tag: SHORT, LONG and LONG8. Other types count as 1 byte a value."""
FREE_PIECES = 1024  # strips or tiles that a file of any size may have
PIXELS_A_PIECE = 256  # pixels that allow one more strip or tile, those of the smallest tile
MAX_ROW_PIECES = 2**15  # most strips of a file that has one for each row, where its pixels do not allow as many
TILE_PIXELS = 2**20
"""Pixels of a tile that may be larger than its image: all of a tile is decoded, with up to 8 bytes a pixel."""
LARGE_TILE_PIXELS = 2**24  # most pixels of a tile that is up to four times as large as its image


class TiffFile(TiffImagePlugin.TiffImageFile):
    """Pillow's TIFF reader, which refuses too many strips or tiles early, and reads planes in full depth."""

    def _setup(self) -> None:
        _check_arrays(self)
        planes = whole_tag(self, PLANAR_CONFIGURATION, 1) == PLANES and whole_tag(self, COMPRESSION, 1) == UNCOMPRESSED
        if planes and whole_tag(self, SAMPLES_PER_PIXEL, 1) == 1:
            self.tag_v2[PLANAR_CONFIGURATION], planes = 1, False  # there is only one order of one channel
        super()._setup()
        if planes:
            _name_depth_of_planes(self)


# In place of the class of Pillow.
Image.register_open(TiffFile.format, TiffFile, TiffImagePlugin._accept)


def whole_tag(image: TiffFile, tag: int, absent: int = 0) -> int:
    """Return the whole number of a tag, or raise ``ImageError`` for the text or fraction of a damaged file."""
    value = image.tag_v2.get(tag, absent)
    if not isinstance(value, int):
        raise unsupported_image(
            f"expected a whole number as {TiffTags.lookup(tag).name} of the TIFF file, "
            f"got one of type {type(value).__name__}; save it anew"
        )
    return value


def check_tile(image: TiffFile) -> None:
    """Raise ``ImageError`` if the tiles of a TIFF file are much larger than its image."""
    pixels = image.width * image.height
    tile = whole_tag(image, TILE_WIDTH) * whole_tag(image, TILE_LENGTH)
    if tile > max(TILE_PIXELS, min(4 * pixels, LARGE_TILE_PIXELS), pixels):
        raise unsupported_image(f"expected smaller tiles, got one of {tile} pixels for {pixels} pixels; save it anew")


def check_kind(image: TiffFile) -> None:
    """Raise ``ImageError`` unless a TIFF file starts with its picture and has only channels that Pillow decodes."""
    if whole_tag(image, NEW_SUBFILE_TYPE) & PREVIEW:
        raise unsupported_image(
            "its first picture is a preview, as in raw files of cameras; develop and save it as PNG"
        )
    samples, channels = whole_tag(image, SAMPLES_PER_PIXEL, 1), len(image.getbands())
    if samples > channels:
        raise unsupported_image(
            f"expected grey, colour or CMYK channels and at most one of alpha, got {samples} channels"
        )


def bits(image: TiffFile) -> int:
    """Return the most bits of the present channels."""
    values = image.tag_v2.get(BITS_PER_SAMPLE, (1,))
    return int(max(values[: len(image.getbands())]))


def is_signed(image: TiffFile) -> bool:
    return SIGNED in image.tag_v2.get(SAMPLE_FORMAT, ())


def white_is_zero(image: TiffFile) -> bool:
    return bool(image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO)


def _name_depth_of_planes(image: TiffFile) -> None:
    """Tell Pillow the depth of uncompressed planes: it knows the letter of each, and would read bytes of 8 bits."""
    depth, reverse = bits(image), whole_tag(image, FILL_ORDER, 1) == LOW_BITS_FIRST
    if depth == 8 and not reverse:
        return
    if depth != 16 or reverse or image.mode not in {"RGB", "RGBA"}:
        raise unsupported_image(
            f"expected planes of RGB with 8 or 16 bits, got uncompressed planes of {image.mode} with {depth} bits"
            f"{', the lowest first' if reverse else ''}; save it anew"
        )
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    for place, tile in enumerate(image.tile):
        assert isinstance(tile.args, tuple)
        letter, *others = tile.args
        image.tile[place] = tile._replace(args=(f"{letter};16{order}", *others))


def _check_arrays(image: TiffFile) -> None:
    rows = whole_tag(image, LENGTH)
    pixels = whole_tag(image, WIDTH) * rows
    planes = whole_tag(image, SAMPLES_PER_PIXEL, 1) if whole_tag(image, PLANAR_CONFIGURATION, 1) == PLANES else 1
    most = max(FREE_PIECES + pixels // PIXELS_A_PIECE, min(rows * planes, MAX_ROW_PIECES))
    for tag in ARRAYS:
        # The raw bytes, because a list of all values has ten times as many.
        count = len(image.tag_v2._tagdata.get(tag, b"")) // VALUE_BYTES.get(image.tag_v2.tagtype.get(tag, 0), 1)
        if count > most:
            raise unsupported_image(
                f"expected at most {most} values of {TiffTags.lookup(tag).name} for {pixels} pixels, got {count}; "
                "save it anew"
            )


PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20
"""Bytes of all texts of a PNG file after decompression."""
MAX_PROFILES = 8  # places of a PNG file where the name of its colour profile may stand
MAX_SCANS = 64  # scans of a JPEG file. Progressive files have about ten, and each scan passes over all pixels.
MAX_SEGMENTS = 4096  # segments of a JPEG file that are looked at for scans. A segment has up to 64 KiB.
END, START_OF_SCAN = 0xD9, 0xDA
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""A marker that begins a segment or ends the file. libjpeg reads no length after other markers: it skips them."""
RUN_LENGTHS = {1, 2}  # compression of BMP files by run lengths of 8 and of 4 bits, which Pillow decodes in Python code


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
