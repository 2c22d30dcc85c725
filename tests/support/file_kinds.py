"""Kinds of files that people put where images are expected, and what becomes of each under a grey model of 28x28."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_runtime.images.files import is_no_image
from tests.models.helpers import real_images
from tests.support.image_files import deep_png, encoded, exif, jpeg_of_scans, png, run_length_bmp, tiff

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class FileKind:
    """A file, and what is expected of it wherever it comes in."""

    name: str
    what: str
    data: bytes
    outcome: Literal["judged", "converted", "refused"]
    said: str = ""
    fits_a_dataset: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether it is only counted where it lies in a folder or an archive."""
        return is_no_image(self.name)


def _colour(grey: Grey) -> NDArray[np.uint8]:
    return np.stack([grey, 255 - grey, grey // 2], axis=-1)


def _deep(grey: Grey) -> NDArray[np.uint16]:
    return (grey.astype(np.uint16) << 8) | 0x5A


def _grey_rgb(grey: NDArray[Any]) -> NDArray[Any]:
    return np.stack([grey] * 3, axis=-1)


def _with_alpha(grey: Grey, alpha: int) -> NDArray[np.uint8]:
    return np.dstack([_grey_rgb(grey), np.full_like(grey, alpha)])


def _several(grey: Grey, kind: str, mode: str = "L") -> bytes:
    others = [Image.fromarray(255 - grey).convert(mode)]
    return encoded(grey, kind, mode=mode, save_all=True, append_images=others)


def _cmyk(grey: Grey, kind: str, *, colour: bool) -> bytes:
    return encoded(_colour(grey), kind, mode="CMYK") if colour else encoded(grey, kind, mode="CMYK")


def _zipped(grey: Grey) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("digit.png", encoded(grey))
    return content.getvalue()


def _npy(grey: Grey) -> bytes:
    content = io.BytesIO()
    np.save(content, grey)
    return content.getvalue()


def _bits(grey: Grey, depth: int) -> bytes:
    """A grey PNG of 2 or 4 bits."""
    levels = (grey >> (8 - depth)).reshape(28, -1, 8 // depth)
    shifts = np.arange(8 - depth, -1, -depth)
    rows = (levels << shifts).sum(axis=2).astype(np.uint8)
    return png(28, 28, depth, 0, b"".join(b"\0" + row.tobytes() for row in rows))


Made = Callable[[Grey], bytes]
NO_IMAGE = "expected one of PNG, JPEG, WEBP, BMP, TIFF, GIF"
DEEP = "16 bits brought to 8: every 256 levels are one"
COLOURED = "expected 1 channel(s) (L), got mode"
OPAQUE = "expected opaque pixels; place the image on a background first"
TURNED = "turned as its EXIF orientation"


def _turned(orientation: int) -> tuple[str, str, str, Made]:
    def made(grey: Grey) -> bytes:
        return encoded(grey, "JPEG", exif=exif(orientation))

    return f"turned-{orientation}.jpg", f"JPEG, EXIF orientation {orientation}", TURNED, made


JUDGED: list[tuple[str, str, Made]] = [
    ("grey.png", "grey PNG", encoded),
    ("GREY.PNG", "grey PNG, name in upper case", encoded),
    ("two-bits.png", "grey PNG of 2 bits", lambda grey: _bits(grey, 2)),
    ("four-bits.png", "grey PNG of 4 bits", lambda grey: _bits(grey, 4)),
    ("grey.jpg", "grey JPEG", lambda grey: encoded(grey, "JPEG")),
    ("progressive.jpeg", "progressive JPEG", lambda grey: encoded(grey, "JPEG", progressive=True)),
    ("grey.bmp", "grey BMP", lambda grey: encoded(grey, "BMP")),
    ("grey.tif", "grey TIFF", lambda grey: encoded(grey, "TIFF")),
    ("lzw.tiff", "TIFF, LZW", lambda grey: encoded(grey, "TIFF", compression="tiff_lzw")),
    ("deflate.tiff", "TIFF, Deflate", lambda grey: encoded(grey, "TIFF", compression="tiff_adobe_deflate")),
    ("big-endian.tif", "TIFF, big-endian", lambda grey: tiff(grey, ">")),
    ("white-is-zero.tif", "TIFF, white is 0", lambda grey: tiff(255 - grey, white_is_zero=True)),
    ("upright.jpg", "JPEG, EXIF orientation 1", lambda grey: encoded(grey, "JPEG", exif=exif(1))),
    ("png-named.jpg", "PNG named .jpg", encoded),
    ("jpeg-named.png", "JPEG named .png", lambda grey: encoded(grey, "JPEG")),
    ("without-suffix", "PNG without a suffix", encoded),
    ("image.dat", "PNG named .dat", encoded),
    ("ünïcode 图.png", "PNG, name beyond ASCII", encoded),
    (".hidden.png", "hidden PNG", encoded),
    ("__MACOSX/grey.png", "PNG in a folder of macOS", encoded),
    ("arriving.png.part", "PNG that is still being written", encoded),
]
CONVERTED: list[tuple[str, str, str, Made]] = [
    ("black-white.png", "PNG of 1 bit", "1 -> L", lambda grey: encoded(grey, mode="1")),
    ("fax.tif", "TIFF of 1 bit, Group 4", "1 -> L", lambda grey: encoded(grey, "TIFF", "1", compression="group4")),
    ("palette.png", "PNG with a palette of greys", "P -> L", lambda grey: encoded(grey, mode="P")),
    ("palette.tif", "TIFF with a palette of greys", "P -> L", lambda grey: encoded(grey, "TIFF", "P")),
    ("grey.gif", "GIF of one frame", "P -> L", lambda grey: encoded(grey, "GIF")),
    ("grey-in-rgb.png", "PNG of three equal channels", "RGB -> L", lambda grey: encoded(_grey_rgb(grey))),
    ("grey-in-rgb.jpg", "colour JPEG of greys", "RGB -> L", lambda grey: encoded(_grey_rgb(grey), "JPEG")),
    ("grey.webp", "lossless WebP", "RGB -> L", lambda grey: encoded(grey, "WEBP", lossless=True)),
    ("lossy.webp", "lossy WebP of greys", "RGB -> L", lambda grey: encoded(grey, "WEBP", quality=80)),
    ("grey-in-rgb.tif", "TIFF of three equal channels", "RGB -> L", lambda grey: encoded(_grey_rgb(grey), "TIFF")),
    ("opaque.png", "PNG with opaque alpha", "RGBA -> L", lambda grey: encoded(_with_alpha(grey, 255))),
    ("grey-alpha.png", "grey PNG with opaque alpha", "LA -> L", lambda grey: encoded(grey, mode="LA")),
    ("opaque.tif", "TIFF with opaque alpha", "RGBA -> L", lambda grey: encoded(_with_alpha(grey, 255), "TIFF")),
    ("black-ink.tif", "CMYK TIFF of black ink", "CMYK -> L", lambda grey: _cmyk(grey, "TIFF", colour=False)),
    ("deep.png", "grey PNG of 16 bits", DEEP, lambda grey: encoded(_deep(grey))),
    ("deep.tif", "grey TIFF of 16 bits", DEEP, lambda grey: encoded(_deep(grey), "TIFF")),
    ("deep-lzw.tif", "TIFF of 16 bits, LZW", DEEP, lambda grey: encoded(_deep(grey), "TIFF", compression="tiff_lzw")),
    ("deep-big-endian.tif", "TIFF of 16 bits, big-endian", DEEP, lambda grey: tiff(_deep(grey), ">")),
    ("deep-white.tif", "TIFF of 16 bits, white is 0", DEEP, lambda g: tiff(0xFFFF - _deep(g), white_is_zero=True)),
    ("deep-rgb.png", "PNG of 3 equal channels of 16 bits", DEEP, lambda grey: deep_png(_grey_rgb(_deep(grey)))),
    ("deep-rgb.tif", "TIFF of 3 equal channels of 16 bits", DEEP, lambda grey: tiff(_grey_rgb(_deep(grey)))),
    (
        "deep-alpha.png",
        "PNG of 16 bits with opaque alpha",
        DEEP,
        lambda grey: deep_png(np.dstack([_deep(grey), np.full((28, 28), 0xFFFF, np.uint16)])),
    ),
    ("animation.gif", "GIF of two frames", "the first of several frames", lambda grey: _several(grey, "GIF")),
    ("two-pictures.jpg", "JPEG with a preview (MPO)", "the first of several", lambda g: _several(g, "MPO", "RGB")),
    *(_turned(n) for n in range(2, 9)),
    ("turned.png", "PNG, EXIF orientation 6", TURNED, lambda grey: encoded(grey, exif=exif(6))),
    ("turned.tif", "TIFF, orientation 6", TURNED, lambda grey: encoded(grey, "TIFF", exif=exif(6))),
    (
        "turned.webp",
        "WebP, EXIF orientation 6",
        TURNED,
        lambda grey: encoded(grey, "WEBP", lossless=True, exif=exif(6)),
    ),
]
REFUSED_BY_THE_MODEL: list[tuple[str, str, str, Made]] = [
    ("colour.png", "colour PNG", COLOURED, lambda grey: encoded(_colour(grey))),
    ("colour.jpg", "colour JPEG", COLOURED, lambda grey: encoded(_colour(grey), "JPEG")),
    ("colour.bmp", "colour BMP", COLOURED, lambda grey: encoded(_colour(grey), "BMP")),
    ("colour.gif", "colour GIF", COLOURED, lambda grey: encoded(_colour(grey), "GIF")),
    ("colour.tif", "colour TIFF", COLOURED, lambda grey: encoded(_colour(grey), "TIFF")),
    ("colour-deep.png", "colour PNG of 16 bits", COLOURED, lambda grey: deep_png(_colour(grey).astype(np.uint16) << 8)),
    ("inks.jpg", "CMYK JPEG", COLOURED, lambda grey: _cmyk(grey, "JPEG", colour=True)),
    ("inks.tif", "CMYK TIFF", COLOURED, lambda grey: _cmyk(grey, "TIFF", colour=True)),
    ("narrow.png", "PNG of 27x28 pixels", "expected 28x28 pixels", lambda grey: encoded(grey[:, 1:])),
    ("large.jpg", "JPEG of 56x56 pixels", "expected 28x28 pixels", lambda grey: encoded(np.tile(grey, (2, 2)), "JPEG")),
    ("high.jpg", "JPEG of 28x20, turned", "got 20x28", lambda grey: encoded(grey[:20], "JPEG", exif=exif(6))),
]  # fmt: skip
REFUSED: list[tuple[str, str, str, Made]] = [
    ("transparent.png", "transparent PNG", OPAQUE, lambda grey: encoded(_with_alpha(grey, 99))),
    ("transparent-palette.png", "PNG, transparent palette", OPAQUE, lambda g: encoded(g, mode="P", transparency=0)),
    ("transparent-deep.png", "PNG of 16 bits, transparent grey", OPAQUE, lambda g: deep_png(_deep(g), b"\0\x5a")),
    ("transparent.gif", "transparent GIF", OPAQUE, lambda grey: encoded(grey, "GIF", transparency=0)),
    ("transparent.webp", "transparent WebP", OPAQUE, lambda g: encoded(_with_alpha(g, 99), "WEBP", lossless=True)),
    ("transparent.tif", "transparent TIFF", OPAQUE, lambda grey: encoded(_with_alpha(grey, 99), "TIFF")),
    ("float.tif", "TIFF of 32-bit floats", "got floating-point numbers", lambda grey: tiff(grey.astype(np.float32))),
    ("double.tif", "TIFF of 64-bit floats", "such as floating-point", lambda grey: tiff(grey.astype(np.float64))),
    ("signed.tif", "TIFF of signed integers", "got signed or 32-bit", lambda grey: tiff(grey.astype(np.int16))),
    ("long.tif", "TIFF of 32-bit integers", "got signed or 32-bit", lambda grey: tiff(grey.astype(np.uint32))),
    ("lab.tif", "CIELAB TIFF", "got CIELAB colours", lambda grey: encoded(grey, "TIFF", "LAB")),
    ("bands.tif", "TIFF of five bands", "expected", lambda grey: tiff(np.stack([grey] * 5, axis=-1))),
    ("pages.tif", "TIFF of two pages", "got several pages", lambda grey: _several(grey, "TIFF")),
    ("raw.dng", "raw file of a camera", "is a preview", lambda grey: tiff(grey, subfile=1)),
    ("animation.png", "animated PNG", "got several frames", lambda grey: _several(grey, "PNG")),
    ("animation.webp", "animated WebP", "got several frames", lambda grey: _several(grey, "WEBP", "RGB")),
    ("cut.png", "PNG without its end", "ends too early", lambda grey: encoded(grey)[:-60]),
    ("cut.jpg", "JPEG without its end", "ends too early", lambda grey: encoded(grey, "JPEG")[:-150]),
    ("cut.bmp", "BMP without its end", "ends too early", lambda grey: encoded(grey, "BMP")[:-100]),
    ("empty.png", "empty file", "got 0 bytes", lambda _grey: b""),
    ("bomb.png", "PNG of 20000x20000 pixels", "at most 100000000 pixels", lambda _grey: png(20_000, 20_000, 8, 0, b"")),
    ("text.png", "text named .png", NO_IMAGE, lambda _grey: b"no image\n" * 20),
    ("drawing.svg", "SVG", NO_IMAGE, lambda _grey: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("photo.heic", "HEIC", NO_IMAGE, lambda _grey: b"\0\0\0\x18ftypheic" + bytes(100)),
    ("photo.jp2", "JPEG 2000", NO_IMAGE, lambda grey: encoded(grey, "JPEG2000")),
    ("picture.ppm", "PPM", NO_IMAGE, lambda grey: encoded(grey, "PPM")),
    ("icon.ico", "ICO", NO_IMAGE, lambda grey: encoded(grey, "ICO")),
    ("layers.psd", "PSD", NO_IMAGE, lambda _grey: b"8BPS\0\1" + bytes(100)),
    ("scan.pdf", "PDF", NO_IMAGE, lambda _grey: b"%PDF-1.7\n" + bytes(100)),
    ("slice.dcm", "DICOM", NO_IMAGE, lambda _grey: bytes(128) + b"DICM" + bytes(100)),
    ("clip.mp4", "video", NO_IMAGE, lambda _grey: b"\0\0\0\x18ftypmp42" + bytes(100)),
    ("notes.txt", "text", NO_IMAGE, lambda _grey: b"taken on Monday\n"),
    ("labels.csv", "table", NO_IMAGE, lambda _grey: b"file,label\n1.png,good\n"),
    ("meta.json", "JSON", NO_IMAGE, lambda _grey: b"{}"),
    ("Thumbs.db", "previews of Windows", NO_IMAGE, lambda _grey: bytes(64)),
    ("desktop.ini", "settings of Windows", NO_IMAGE, lambda _grey: b"[.ShellClassInfo]\r\n"),
    (".DS_Store", "settings of macOS", NO_IMAGE, lambda _grey: bytes(64)),
    ("run-lengths.bmp", "BMP, run-length encoded", "without run-length encoding", run_length_bmp),
    ("scans.jpg", "JPEG of 100 scans", "at most 64 scans", lambda grey: jpeg_of_scans(grey, 100)),
]
NESTED: list[tuple[str, str, Made]] = [
    ("inner.zip", "zip archive of images", _zipped),
    ("array.npy", "NumPy array", _npy),
]


def file_kinds() -> list[FileKind]:
    """Return all kinds, each made of another digit."""
    rows = [
        *((name, what, "judged", "", made) for name, what, made in JUDGED),
        *((name, what, "converted", said, made) for name, what, said, made in CONVERTED),
        *((name, what, "refused", said, made) for name, what, said, made in (*REFUSED_BY_THE_MODEL, *REFUSED)),
        *((name, what, "refused", NO_IMAGE, made) for name, what, made in NESTED),
    ]
    taken = {name for name, *_ in REFUSED_BY_THE_MODEL}
    digits = real_images(len(rows))[:, 0]
    return [
        FileKind(name, what, made(digit), outcome, said, name in taken)  # type: ignore[arg-type]
        for (name, what, outcome, said, made), digit in zip(rows, digits, strict=True)
    ]
