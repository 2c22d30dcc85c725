"""Files that would take far more time to decode than their pixels need are refused in a sentence, before decoding."""

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from snf_models.errors import ImageError
from snf_runtime.images.codec import open_image, pixels_of
from snf_runtime.images.files import MAX_PIXELS
from snf_runtime.images.untrusted import MAX_SCANS, DecodingAbandoned
from tests.models.helpers import real_images
from tests.support.image_files import encoded, jpeg_of_scans, png, run_length_bmp

DIGIT = real_images(1)[0, 0]
JPEG, GIF, PNG = encoded(DIGIT, "JPEG"), encoded(DIGIT, "GIF"), encoded(DIGIT)
START_OF_SCAN = b"\xff\xda"
GIF_FRAME = b"!\xf9\4\0\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"


def chunks(name: bytes, content: bytes, count: int) -> bytes:
    """The digit as PNG with equal chunks before its pixels."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    start = PNG.index(b"IDAT") - 4
    return PNG[:start] + chunk * count + PNG[start:]


@dataclass
class Typed:
    """A value of a TIFF tag that is no list of whole numbers of 32 bits."""

    kind: int
    count: int
    content: bytes


def grey_tiff(size: tuple[int, int], tags: dict[int, Sequence[int] | Typed], data: bytes, following: int = 0) -> bytes:
    """A TIFF file whose data begins at byte 8, with pages of the same tags after its first."""
    tags = {256: [size[0]], 257: [size[1]], 258: [8], 262: [1], 277: [1], **tags}
    fields = b""
    for tag, values in sorted(tags.items()):
        typed = values if isinstance(values, Typed) else Typed(4, len(values), struct.pack(f"<{len(values)}I", *values))
        content = typed.content.ljust(4, b"\0")
        if len(content) > 4:
            data, content = data + content, struct.pack("<I", 8 + len(data))
        fields += struct.pack("<HHI", tag, typed.kind, typed.count) + content
    page = struct.pack("<H", len(tags)) + fields
    pages = b"".join(
        page + struct.pack("<I", 8 + len(data) + (number + 1) * (len(page) + 4)) for number in range(following)
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + pages + page + bytes(4)


def tile_for(pixels: int, side: int) -> bytes:
    data = zlib.compress(bytes(side * side))
    return grey_tiff((pixels, pixels), {259: [8], 322: [side], 323: [side], 324: [8], 325: [len(data)]}, data)


def strips(width: int, height: int) -> bytes:
    """An uncompressed TIFF file of a strip a row."""
    starts = range(8, 8 + width * height, width)
    tags: dict[int, Sequence[int] | Typed] = {259: [1], 273: starts, 278: [1], 279: [width] * height}
    return grey_tiff((width, height), tags, bytes(width * height))


def one_strip(tags: dict[int, Sequence[int] | Typed]) -> bytes:
    """An uncompressed TIFF file of 8x8 pixels with further tags."""
    return grey_tiff((8, 8), {259: [1], 273: [8], 278: [8], 279: [64], **tags}, bytes(range(128)))


def reserved_marker() -> bytes:
    """The digit as JPEG of 500 scans, after a marker that libjpeg skips alone: it reads no length after it."""
    data = jpeg_of_scans(DIGIT, 500, restart_marker_rows=1)
    at = data.index(b"\xff\xd0")
    return data[:at] + b"\xff\x05\xfe\xfe" + data[at:]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(run_length_bmp(DIGIT), "without run-length encoding", id="bmp-run-lengths"),
        pytest.param(jpeg_of_scans(DIGIT, MAX_SCANS + 1), "at most 64 scans, got more", id="jpeg-scans"),
        pytest.param(jpeg_of_scans(DIGIT, 6000), "at most 64 scans, got more", id="jpeg-many-scans"),
        pytest.param(JPEG[:2] + b"\xff\xfe\0\2" * 20_000 + JPEG[2:], "parts", id="jpeg-markers"),
        pytest.param(JPEG[:2] + b"\xff" * 20_000 + JPEG[2:], "parts", id="jpeg-fill-bytes"),
        pytest.param(chunks(b"teSt", b"", 20_000), "parts", id="png-chunks"),
        pytest.param(
            chunks(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20)), 9), "one colour profile", id="png-profiles"
        ),
        pytest.param(GIF[:13] + b"!\xfe" + b"\1a" * 20_000 + b"\0" + GIF[13:], "parts", id="gif-comment"),
        pytest.param(reserved_marker(), "at most 64 scans, got more", id="jpeg-reserved-marker"),
        pytest.param(
            one_strip({273: [8] * 1026}),
            "at most 1024 values of StripOffsets for 64 pixels, got 1026",
            id="tiff-strips",
        ),
        pytest.param(tile_for(8, 4096), "smaller tiles, got one of 16777216 pixels for 64", id="tiff-tile"),
        pytest.param(tile_for(2100, 4128), "smaller tiles, got one of 17040384", id="tiff-tile-of-much-memory"),
    ],
)
def test_a_bomb_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as refused:
        open_image(data)
    assert refused.value.slug == "unsupported-image"


@pytest.mark.parametrize(
    "width",
    [
        pytest.param(Typed(2, 2, b"a\0"), id="ASCII"),
        pytest.param(Typed(1, 1, b"\x10"), id="BYTE"),
        pytest.param(Typed(5, 1, struct.pack("<II", 2**31, 1)), id="RATIONAL"),
    ],
)
@pytest.mark.parametrize("tag", [322, 254], ids=["TileWidth", "NewSubfileType"])
def test_tags_of_a_tiff_must_be_whole_numbers(tag: int, width: Typed) -> None:
    """A text or bytes times a number is that many copies: 4 GB from a file of 200 bytes."""
    with allocating_at_most(2**20), pytest.raises(ImageError, match="expected a whole number as ") as refused:
        open_image(one_strip({323: [2**24], tag: width}))
    assert refused.value.slug == "unsupported-image"


def test_bits_of_channels_that_a_tiff_lacks_are_not_used() -> None:
    """Two to the power of them was computed."""
    data = one_strip({258: [16, 2**20], 262: [0], 279: [128]})
    levels = np.asarray(open_image(data).image)
    assert np.array_equal(levels.ravel(), 65535 - np.frombuffer(bytes(range(128)), "<u2"))


def test_strips_of_a_tiff_are_counted_before_there_are_objects_of_them() -> None:
    data = one_strip({273: Typed(1, 100_000, bytes(100_000))})
    with allocating_at_most(2**20):
        assert pixels_of(data) == 0
        with pytest.raises(ImageError, match="values of StripOffsets"):
            open_image(data)


def test_other_threads_go_on_while_many_parts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads them in Python code: scores of other callers waited for the interpreter."""
    pauses: list[float] = []
    monkeypatch.setattr("snf_runtime.images.untrusted.time.sleep", pauses.append)
    for data in (PNG, JPEG, GIF):
        open_image(data)
    assert not pauses
    with pytest.raises(ImageError, match="parts"):
        open_image(chunks(b"teSt", b"", 20_000))
    assert len(pauses) >= 30


def test_fill_bytes_of_a_jpeg_are_read_once() -> None:
    end = JPEG.rindex(b"\xff\xd9")
    started = time.perf_counter()
    open_image(JPEG[:end] + b"\xff" * 100_000 + b"\0" + JPEG[end:] + START_OF_SCAN * (MAX_SCANS + 1))
    assert time.perf_counter() - started < 5, "it takes milliseconds, and took 40 s where each was a start"


@contextmanager
def allocating_at_most(most: int) -> Iterator[None]:
    """Assert that Python allocates at most so many bytes at a time in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= most
    finally:
        tracemalloc.stop()


def test_texts_of_a_png_are_not_decompressed_without_end() -> None:
    bomb = chunks(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 1)), 10)
    with pytest.raises(ImageError, match="Too much memory used in text chunks"):
        open_image(bomb)


def test_pages_and_frames_are_not_counted_one_by_one() -> None:
    """Pillow took 100 us for each page; a file of as many bytes without further pages is the measure."""
    animation = GIF[:-1] + GIF_FRAME * 20_000 + b";"
    assert open_image(animation).notes == ("the first of several frames",)
    pages = grey_tiff((1, 1), {259: [1], 273: [8], 278: [1], 279: [1]}, b"\0", 20_000)
    with pytest.raises(ImageError, match="got several pages"):
        open_image(pages)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(jpeg_of_scans(DIGIT, MAX_SCANS), id="jpeg-of-64-scans"),
        pytest.param(jpeg_of_scans(DIGIT, MAX_SCANS, restart_marker_rows=1), id="jpeg-restarts"),
        pytest.param(JPEG[:2] + b"\xff\xe5\x03\xea" + START_OF_SCAN * 500 + JPEG[2:], id="jpeg-metadata"),
        pytest.param(JPEG + START_OF_SCAN * 1000, id="jpeg-trailer"),
        pytest.param(encoded(DIGIT, "BMP"), id="bmp"),
        pytest.param(strips(28, 28), id="tiff-of-a-strip-a-row"),
        pytest.param(tile_for(28, 1024), id="tiff-of-a-large-tile"),
        pytest.param(chunks(b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000)), 1), id="png-profile"),
    ],
)
def test_unusual_files_that_cost_little_are_decoded(data: bytes) -> None:
    assert open_image(data).image.size == (28, 28)


@pytest.mark.parametrize(("width", "height"), [(128, 3000), (24, 2**15)])
def test_a_narrow_tiff_may_have_a_strip_a_row(width: int, height: int) -> None:
    assert open_image(strips(width, height)).image.size == (width, height)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_decoding_ends_where_the_image_is_abandoned(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    data = encoded(image, kind)
    asked = 0

    def is_abandoned() -> bool:
        nonlocal asked
        asked += 1
        return asked == limit

    limit = -1
    whole = np.asarray(open_image(data, is_abandoned=is_abandoned).image)
    with Image.open(io.BytesIO(data)) as alone:
        assert np.array_equal(whole, np.asarray(alone))
    limit, asked = asked, 0
    with pytest.raises(DecodingAbandoned):
        open_image(data, is_abandoned=is_abandoned)


def test_a_flat_progressive_file_is_decoded_in_parts() -> None:
    """Its scans have few bytes each, and all of them took one part."""
    data = jpeg_of_scans(np.zeros((2000, 2000), np.uint8), MAX_SCANS)
    assert len(data) < 2**16
    asked = [0]

    def is_abandoned() -> bool:
        asked[0] += 1
        return False

    open_image(data, is_abandoned=is_abandoned)
    before = asked[0]
    pixels_of(data, is_abandoned)
    assert before - (asked[0] - before) >= 10


def test_pixels_are_counted_by_the_header_where_it_is_accepted() -> None:
    assert pixels_of(PNG) == 28 * 28
    assert pixels_of(png(20_000, 5_000, 8, 0, b"")) == MAX_PIXELS
    assert pixels_of(png(20_000, 5_001, 8, 0, b"")) == 0, "it is refused before it is decoded"
    assert pixels_of(b"no image") == 0
