"""Files of every accepted format and depth, upright: the pixels that a viewer shows, and what is said of them."""

import io
import os
import struct
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snf_models.errors import ImageError
from snf_runtime.images.codec import Preprocessing, decode_image, open_image
from snf_runtime.images.preprocessing import DecodedImage
from snf_worker.settings import Settings
from tests.models.helpers import real_images
from tests.support.image_files import HIGH, WIDE, encoded, exif, tiff
from tests.support.paths import ROOT

DIGIT = real_images(1)[0, 0]
GREY = Preprocessing(channels=1, height=28, width=28)
UPRIGHT = Preprocessing(channels=1, height=28, width=20)
SECOND: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(255 - DIGIT)]}
DEEP = (DIGIT.astype(np.uint16) << 8) | 0x37


def decode(data: bytes, **changes: Any) -> DecodedImage:
    return decode_image(data, replace(GREY, **changes))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_as_its_orientation_says(kind: str, orientation: int) -> None:
    shown = DIGIT[:, 4:24]
    stored = {
        1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.T, 6: shown.T[::-1],
        7: shown.T[::-1, ::-1], 8: shown.T[:, ::-1],
    }[orientation]  # fmt: skip
    settings: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    decoded = decode_image(encoded(np.ascontiguousarray(stored), kind, exif=exif(orientation), **settings), UPRIGHT)
    assert np.abs(decoded.pixels[0].astype(int) - shown).mean() < (3 if kind == "JPEG" else 0.01)
    assert decoded.source_size == (20, 28)
    notes = () if orientation == 1 else (f"turned as its EXIF orientation {orientation} says",)
    assert decoded.notes == notes


def test_damaged_metadata_leaves_the_pixels_as_they_are() -> None:
    damaged = encoded(DIGIT, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert np.array_equal(decode(damaged).pixels[0], DIGIT)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_metadata_that_cannot_be_read_are_said(kind: str) -> None:
    opened = open_image(encoded(DIGIT, kind, exif=b"Exif\0\0garbage"))
    assert opened.notes == ("taken as upright: its EXIF data cannot be read",)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(DEEP, "PNG"), id="png"),
        pytest.param(encoded(DEEP, "TIFF"), id="tiff"),
        pytest.param(encoded(DEEP, "TIFF", compression="tiff_lzw"), id="tiff-lzw"),
        pytest.param(tiff(DEEP, order=">"), id="big-endian"),
        pytest.param(tiff(0xFFFF - DEEP, white_is_zero=True), id="white-is-zero"),
    ],
)
def test_sixteen_bits_are_brought_to_eight(data: bytes) -> None:
    decoded = decode(data)
    assert np.array_equal(decoded.pixels[0], DIGIT)
    assert decoded.converted == "I;16 -> L"
    assert decoded.notes == ("16 bits brought to 8: every 256 levels are one",)


def test_sixteen_bits_of_a_camera_of_twelve() -> None:
    twelve = DIGIT.astype(np.uint16) << 4
    assert np.array_equal(decode(encoded(twelve, "PNG"), levels=4096).pixels[0], DIGIT)
    assert decode(encoded(twelve, "PNG")).pixels.max() < 16
    beyond = twelve.copy()
    beyond[:2, 0] = 5000
    decoded = decode(encoded(beyond, "PNG"), levels=4096)
    assert decoded.pixels[0, :2, 0].tolist() == [255, 255]
    [note] = decoded.notes
    assert note == "16 bits brought to 8: every 16 levels are one, 2 pixels brighter than level 4095 are white"


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_of_colour_keep_their_upper_byte(order: str) -> None:
    photo = np.stack([real_images(3)[n, 0] for n in range(3)], axis=-1)
    decoded = decode(tiff((photo.astype(np.uint16) << 8) | 0x91, order=order), channels=3)
    assert np.array_equal(decoded.pixels.transpose(1, 2, 0), photo)
    assert decoded.notes == ("16 bits brought to 8: every 256 levels are one",)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
def test_channels_may_be_stored_one_after_the_other(
    order: str, kind: type[np.unsignedinteger[Any]], alpha: bool
) -> None:
    shown = np.stack([real_images(3)[n, 0] for n in range(3)], axis=-1)
    photo = shown.astype(kind) if kind is np.uint8 else (shown.astype(kind) << 8) | 0x91
    if alpha:
        photo = np.dstack([photo, np.full((28, 28), np.iinfo(kind).max, kind)])
    decoded = decode(tiff(photo, order=order, planes=True), channels=3)
    assert np.array_equal(decoded.pixels.transpose(1, 2, 0), shown)


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_single_channel_has_no_order_of_channels(order: str, white_is_zero: bool) -> None:
    stored = 255 - DIGIT if white_is_zero else DIGIT
    assert np.array_equal(decode(tiff(stored, order, white_is_zero=white_is_zero, planes=True)).pixels[0], DIGIT)
    if not white_is_zero:
        assert np.array_equal(decode(tiff(DEEP, order, planes=True)).pixels[0], DIGIT)


def test_planes_that_pillow_cannot_read_are_refused() -> None:
    inks = tiff(np.dstack([DEEP] * 4), planes=True).replace(*(struct.pack("<HHIHH", 262, 3, 1, n, 0) for n in (2, 5)))
    with pytest.raises(ImageError, match="got uncompressed planes of CMYK with 16 bits"):
        decode(inks, channels=3)


def test_the_first_frame_stands_for_a_gif() -> None:
    frames = [Image.fromarray(DIGIT), Image.fromarray(255 - DIGIT)]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    decoded = decode(content.getvalue())
    assert np.array_equal(decoded.pixels[0], DIGIT)
    assert decoded.notes == ("the first of several frames",)
    assert decode(encoded(DIGIT, "GIF")).notes == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(tiff(DIGIT.astype(np.float32)), "got floating-point numbers", id="float32"),
        pytest.param(tiff(DIGIT.astype(np.float64)), "such as floating-point numbers", id="float64"),
        pytest.param(tiff(DIGIT.astype(np.int8)), "signed or 32-bit", id="int8"),
        pytest.param(tiff(DIGIT.astype(np.int16)), "signed or 32-bit", id="int16"),
        pytest.param(tiff(DIGIT.astype(np.uint32)), "signed or 32-bit", id="uint32"),
        pytest.param(encoded(DIGIT, "TIFF", **SECOND), "several pages", id="pages"),
        pytest.param(tiff(np.stack([DIGIT] * 5, axis=-1)), "TIFF", id="five-channels"),
        pytest.param(tiff(DIGIT, subfile=1), "is a preview", id="preview"),
        pytest.param(encoded(DIGIT, "TIFF", mode="LAB"), "got CIELAB colours", id="lab"),
    ],
)
def test_other_numbers_and_pages_are_refused_in_a_sentence(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        decode(data)
    assert caught.value.slug == "unsupported-image"


def test_signed_levels_that_a_dataset_has_stored_are_read_as_before() -> None:
    stored = open_image(tiff(DIGIT.astype(np.int8)), any_cost=True)
    assert np.array_equal(np.asarray(stored.image), DIGIT)


@pytest.mark.parametrize("shape", [WIDE, HIGH])
@pytest.mark.parametrize("fit", ["exact", "crop", "stretch", "pad"])
def test_colour_at_a_grey_model_is_refused_with_and_without_resizing(shape: tuple[int, int], fit: str) -> None:
    rows, columns = (28, 28) if fit == "exact" else shape
    tinted = np.dstack([np.resize(DIGIT, (rows, columns))] * 3)
    tinted[0, 0] = (200, 100, 0)
    with pytest.raises(ImageError, match="got mode RGB"):
        decode(encoded(tinted, "PNG"), fit=fit)
    decoded = decode(encoded(tinted, "PNG"), fit=fit, colour="grey")
    assert decoded.converted == "RGB -> L"


def test_the_most_pixels_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.model_fields["max_image_pixels"].default == 100_000_000
    code = "from snf_runtime.images.files import MAX_PIXELS; print(MAX_PIXELS)"
    for value, expected in (("4096", "4096\n"), ("", "100000000\n")):
        variables = {**os.environ, "SNF_MAX_IMAGE_PIXELS": value}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, check=True)
        assert done.stdout.decode() == expected
    monkeypatch.setattr("snf_runtime.images.codec.MAX_PIXELS", 28 * 28 - 1)
    with pytest.raises(ImageError, match="expected at most 783 pixels, the header gives 28x28"):
        decode(encoded(DIGIT))
    monkeypatch.setattr("snf_runtime.images.codec.MAX_PIXELS", 28 * 28)
    assert np.array_equal(decode(encoded(DIGIT)).pixels[0], DIGIT)
