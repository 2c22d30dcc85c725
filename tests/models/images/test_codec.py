"""Image files from outside: pixels as they are, or an ImageError that says what is wrong, and never anything else."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snf_models.errors import ErrorKind, ImageError
from snf_runtime.images.codec import Preprocessing, decode_image, decode_npy, encode_png, image_grid, open_image
from snf_runtime.images.files import FORMATS
from snf_runtime.images.preprocessing import conform
from tests.models.datasets.upload_files import npy
from tests.models.helpers import real_images
from tests.support.image_files import png
from tests.support.paths import DATA

GREY = Preprocessing(channels=1, height=28, width=28)
COLOUR = Preprocessing(channels=3, height=28, width=28)
ALPHA = Preprocessing(channels=4, height=28, width=28)
DIGIT = real_images(1)[0]
PHOTO = np.concatenate(list(real_images(3)))
FOLDER = DATA / "mnist"


def file(pixels: NDArray[Any], kind: str = "PNG", mode: str | None = None, **settings: Any) -> bytes:
    """Encode (H, W[, C]) by Pillow."""
    image = Image.fromarray(pixels)
    content = io.BytesIO()
    (image.convert(mode) if mode else image).save(content, format=kind, **settings)
    return content.getvalue()


def refused(data: bytes, preprocessing: Preprocessing, slug: str, text: str) -> None:
    with pytest.raises(ImageError, match=text) as caught:
        decode_image(data, preprocessing)
    assert caught.value.slug == slug
    assert caught.value.kind is ErrorKind.INVALID
    assert caught.value.title


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_grey_pixels_arrive_as_they_are(kind: str) -> None:
    decoded = decode_image(file(DIGIT[0], kind), GREY)
    assert np.array_equal(decoded.pixels, DIGIT)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert (decoded.converted, decoded.resized) == (None, False)


@pytest.mark.parametrize(("kind", "settings"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_colour_pixels_arrive_channels_first(kind: str, settings: dict[str, Any]) -> None:
    decoded = decode_image(file(PHOTO.transpose(1, 2, 0), kind, **settings), COLOUR)
    assert np.array_equal(decoded.pixels, PHOTO)
    assert decoded.converted is None


def test_a_jpeg_is_near_enough() -> None:
    decoded = decode_image(file(DIGIT[0], "JPEG", quality=95), GREY)
    assert np.abs(decoded.pixels.astype(int) - DIGIT).mean() < 3


@pytest.mark.parametrize(
    ("mode", "note"), [("RGB", "RGB -> L"), ("RGBA", "RGBA -> L"), ("LA", "LA -> L"), ("P", "P -> L")]
)
def test_grey_in_another_mode_is_the_same_grey_and_says_so(mode: str, note: str) -> None:
    decoded = decode_image(file(DIGIT[0], mode=mode), GREY)
    assert np.array_equal(decoded.pixels, DIGIT)
    assert decoded.converted == note


def test_black_and_white_of_one_bit() -> None:
    decoded = decode_image(file(DIGIT[0] > 127), GREY)
    assert np.array_equal(decoded.pixels[0], np.where(DIGIT[0] > 127, 255, 0))
    assert decoded.converted == "1 -> L"


def test_a_palette_of_colours_is_its_colours() -> None:
    image = Image.fromarray(PHOTO.transpose(1, 2, 0)).quantize(16)
    content = io.BytesIO()
    image.save(content, "PNG")
    decoded = decode_image(content.getvalue(), COLOUR)
    assert np.array_equal(decoded.pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB")))
    assert decoded.converted == "P -> RGB"


def test_four_channels_keep_their_alpha() -> None:
    pixels = np.concatenate([PHOTO, DIGIT]).transpose(1, 2, 0)
    decoded = decode_image(file(pixels), ALPHA)
    assert np.array_equal(decoded.pixels.transpose(1, 2, 0), pixels)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "used", "unused"),
    [
        pytest.param(1, 0, b"\xff\xff\xff\xff", b"\0\1", b"\0\0", id="1-bit"),
        pytest.param(2, 0, b"\x6d" * 7, b"\0\1", b"\0\0", id="2-bits"),
        pytest.param(4, 0, b"\x1f" * 14, b"\0\x0f", b"\0\x0e", id="4-bits"),
        pytest.param(8, 0, b"\x1f" * 28, b"\0\x1f", b"\0\x1e", id="8-bits"),
        pytest.param(16, 2, b"\x12\x34" * 84, b"\x12\x34" * 3, b"\x34\x12" * 3, id="16-bit-colour"),
    ],
)
def test_a_transparent_colour_is_found_at_any_depth(
    depth: int, colour: int, row: bytes, used: bytes, unused: bytes
) -> None:
    preprocessing = COLOUR if colour else GREY
    data = (b"\0" + row) * 28
    refused(png(28, 28, depth, colour, data, used), preprocessing, "unsupported-image", "expected opaque pixels")
    plain = decode_image(png(28, 28, depth, colour, data), preprocessing).pixels
    assert np.array_equal(decode_image(png(28, 28, depth, colour, data, unused), preprocessing).pixels, plain)
    # Images of a dataset that earlier versions stored without a word are still trained on.
    stored = open_image(png(28, 28, depth, colour, data, used), any_cost=True)
    assert np.array_equal(conform(stored, preprocessing).pixels, plain)


HALF = np.dstack([PHOTO.transpose(1, 2, 0), np.full((28, 28), 128, dtype=np.uint8)])
WHOLE = file(DIGIT[0])


@pytest.mark.parametrize(
    ("data", "preprocessing", "slug", "text"),
    [
        pytest.param(b"", GREY, "empty-image", "got 0 bytes", id="empty"),
        pytest.param(b"not an image\n" * 50, GREY, "undecodable-image", "expected one of PNG", id="text"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", GREY, "undecodable-image", "one of", id="svg"),
        pytest.param(WHOLE[:-60], GREY, "truncated-image", "ends too early", id="truncated-png"),
        pytest.param(file(PHOTO[0], "JPEG")[:-200], GREY, "truncated-image", "ends too early", id="truncated-jpeg"),
        pytest.param(file(DIGIT[0], "BMP")[:-100], GREY, "truncated-image", "ends too early", id="truncated-bmp"),
        pytest.param(WHOLE[:20], GREY, "truncated-image", "ends too early", id="truncated-header"),
        pytest.param(
            png(28, 28, 16, 4, (b"\0" + b"\x80" * 112) * 28), GREY, "unsupported-image", "opaque", id="16-bit-alpha"
        ),
        pytest.param(png(20_000, 20_000, 8, 0, b""), GREY, "image-too-large", "", id="bomb"),
        pytest.param(png(20_000, 5_001, 8, 2, b""), GREY, "image-too-large", "20000x5001", id="large"),
        pytest.param(png(2**31 - 1, 2**31 - 1, 8, 0, b""), GREY, "image-too-large", "", id="larger"),
        pytest.param(WHOLE, COLOUR, "wrong-image-shape", r"3 channel\(s\) \(RGB\), got mode L", id="grey-for-colour"),
        pytest.param(
            file(PHOTO.transpose(1, 2, 0)),
            GREY,
            "wrong-image-shape",
            r"1 channel\(s\) \(L\), got mode RGB",
            id="colour",
        ),
        pytest.param(
            file(DIGIT[0, :27]), GREY, "wrong-image-shape", r"28x28 pixels \(width x height\), got 28x27", id="size"
        ),
        pytest.param(file(HALF), COLOUR, "unsupported-image", "expected opaque", id="transparent"),
        pytest.param(
            file(DIGIT[0], mode="P", transparency=0), GREY, "unsupported-image", "opaque", id="transparent-palette"
        ),
        pytest.param(
            file(DIGIT[0], save_all=True, append_images=[Image.fromarray(255 - DIGIT[0])]),
            GREY,
            "unsupported-image",
            "got several frames of an animation",
            id="animated-png",
        ),
        pytest.param(
            file(
                PHOTO.transpose(1, 2, 0),
                "WEBP",
                save_all=True,
                append_images=[Image.fromarray(255 - PHOTO.transpose(1, 2, 0))],
            ),
            COLOUR,
            "unsupported-image",
            "got several frames of an animation",
            id="animated-webp",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(data: bytes, preprocessing: Preprocessing, slug: str, text: str) -> None:
    refused(data, preprocessing, slug, text)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_raise_nothing_but_image_errors(kind: str) -> None:
    original = file(PHOTO.transpose(1, 2, 0), kind)
    generator = np.random.default_rng(len(original))
    for _ in range(150):
        content = bytearray(original)
        for position in generator.integers(0, len(content), int(generator.integers(1, 8))):
            content[position] = int(generator.integers(0, 256))
        content = content[: int(generator.integers(1, len(content) + 1))] if generator.random() < 0.5 else content
        try:
            pixels = decode_image(bytes(content), COLOUR).pixels
        except ImageError:
            continue
        assert pixels.shape == PHOTO.shape


def npy_with_header(header: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + bytes(784)


BATCH = real_images(5)
BATCH_COLOUR = real_images(4, channels=3)


@pytest.mark.parametrize(
    ("array", "preprocessing", "expected"),
    [
        pytest.param(BATCH[:, 0], GREY, BATCH, id="NHW"),
        pytest.param(BATCH[:, 0, :, :, None], GREY, BATCH, id="NHW1"),
        pytest.param(np.asfortranarray(BATCH[:, 0]), GREY, BATCH, id="fortran"),
        pytest.param(BATCH_COLOUR.transpose(0, 2, 3, 1), COLOUR, BATCH_COLOUR, id="NHWC"),
        pytest.param(np.asfortranarray(BATCH_COLOUR.transpose(0, 2, 3, 1)), COLOUR, BATCH_COLOUR, id="NHWC-fortran"),
    ],
)
def test_arrays(array: NDArray[Any], preprocessing: Preprocessing, expected: NDArray[Any]) -> None:
    images = decode_npy(npy(array), preprocessing, 5)
    assert np.array_equal(images, expected)
    assert images.flags.c_contiguous


def test_a_newer_header_is_read() -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 28, 28), }\n"
    assert decode_npy(npy_with_header(header, (2, 0)), GREY, 5).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("data", "slug", "text"),
    [
        pytest.param(b"", "empty-image", "0 bytes", id="empty"),
        pytest.param(b"PK\x03\x04 something zipped", "undecodable-image", "", id="npz"),
        pytest.param(npy(BATCH[:, 0].astype(np.float32)), "unsupported-image", "uint8, got float32", id="float"),
        pytest.param(npy(BATCH[:, 0].astype(np.uint16)), "unsupported-image", "uint8, got uint16", id="16-bit"),
        pytest.param(npy(np.array([{"a": 1}], dtype=object)), "unsupported-image", "uint8, got object", id="pickled"),
        pytest.param(npy(BATCH[0, 0]), "wrong-image-shape", r"got \(28, 28\)", id="no-batch-axis"),
        pytest.param(npy(BATCH[:, 0, :27]), "wrong-image-shape", r"got \(5, 27, 28\)", id="size"),
        pytest.param(npy(BATCH_COLOUR.transpose(0, 2, 3, 1)), "wrong-image-shape", "got", id="colour"),
        pytest.param(npy(real_images(6)[:, 0]), "image-too-large", "1 to 5, got 6", id="many"),
        pytest.param(npy(BATCH[:, 0])[:-1], "truncated-image", "expected 3920 bytes, got 3919", id="truncated"),
        pytest.param(
            npy_with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 28, 28)}"),
            "image-too-large",
            "got 4294967296",
            id="bomb",
        ),
        pytest.param(npy_with_header(b"{'descr': ("), "undecodable-image", "", id="open-bracket"),
        pytest.param(npy_with_header(b"-" * 5000 + b"1"), "undecodable-image", "", id="deep"),
        pytest.param(npy_with_header(b"(" * 3000), "undecodable-image", "", id="nested"),
        pytest.param(npy_with_header(b"__import__('os').getcwd()"), "undecodable-image", "", id="code"),
        pytest.param(npy_with_header(b"[]"), "undecodable-image", "not a dictionary", id="list"),
    ],
)
def test_arrays_that_are_refused(data: bytes, slug: str, text: str) -> None:
    with pytest.raises(ImageError, match=text) as caught:
        decode_npy(data, GREY, 5)
    assert caught.value.slug == slug


def test_damaged_arrays_raise_nothing_but_image_errors() -> None:
    original = npy(BATCH[:, 0])
    generator = np.random.default_rng(0)
    for _ in range(600):
        content = bytearray(original)
        for position in generator.integers(0, 128, int(generator.integers(1, 6))):
            content[position] = int(generator.integers(0, 256))
        try:
            images = decode_npy(bytes(content), GREY, 5)
        except ImageError:
            continue
        assert images.shape[1:] == (1, 28, 28)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encoding_is_undone_by_decoding(channels: int) -> None:
    pixels = real_images(channels)[:, 0]
    preprocessing = Preprocessing(channels=channels, height=28, width=28)
    assert np.array_equal(decode_image(encode_png(pixels), preprocessing).pixels, pixels)


def test_a_grid_shows_every_image_once() -> None:
    grid = image_grid(real_images(5))
    assert grid.shape == (1, 2 * 30 - 2, 3 * 30 - 2)
    assert np.array_equal(grid[:, 30:58, 30:58], real_images(5)[4])
    assert (grid[:, 28:30] == 128).all()
