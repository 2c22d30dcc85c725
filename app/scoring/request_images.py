"""From a request's body to images: reads it within its limits, and decodes it in a few threads unless tiny."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.http.body_limit import read_body
from app.http.errors import Problem, invalid, unsupported_media_type
from app.scoring.decoders import Decoders
from models.errors import ImageError
from models.images.codec import DecodedImage, Preprocessing, decode_image, decode_npy

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
MULTIPART = "multipart/form-data"
NPY = "application/x-npy"
FIELD = "images"
MAX_FIELD_BYTES = 4096
NPY_HEADER_BYTES = 10_012
"""Longest header of a `.npy` file that NumPy reads, with what stands before it."""

TINY = 4096
"""Bytes of a file, and values of its image, that are decoded in less time than it takes to hand them to a thread."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Upload:
    """One encoded image of a request."""

    filename: str | None
    data: bytes


@dataclass(frozen=True)
class Batch:
    """A body: encoded images, or with `array` an encoded `.npy`; `many` when items may fail alone."""

    uploads: tuple[Upload, ...]
    many: bool = False
    array: bool = False


@dataclass(frozen=True)
class Item:
    """One image after decoding: pixels of shape (C, H, W), or the error that kept it from being decoded."""

    filename: str | None
    image: DecodedImage | ImageError


async def read_batch(request: Request, preprocessing: Preprocessing, max_images: int) -> Batch:
    """Reads the body by its content type; raises 400, 413, 415 or 422 problems."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        return Batch(await _read_form(request, max_images), many=True)
    if kind in IMAGE_TYPES:
        return Batch((Upload(None, await request.body()),))
    if kind == NPY:
        # Past its header, an array that can be scored has one byte a value.
        limit = NPY_HEADER_BYTES + max_images * math.prod(preprocessing.shape)
        return Batch((Upload(None, await read_body(request, limit)),), array=True)
    raise unsupported_media_type(kind, [MULTIPART, *IMAGE_TYPES, NPY])


async def _read_form(request: Request, max_images: int) -> tuple[Upload, ...]:
    async with aclosing(request.stream()) as stream:
        parser = MultiPartParser(
            request.headers, stream, max_files=max_images, max_fields=16, max_part_size=MAX_FIELD_BYTES
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            files = sum(isinstance(value, UploadFile) for _, value in parser.items)
            if files >= max_images:
                raise too_many(max_images) from error
            raise Problem(
                400, "malformed-form", "The form cannot be read", f"multipart/form-data: {error.message}"
            ) from error
    try:
        uploads = []
        for name, value in form.multi_items():
            if name != FIELD:
                raise invalid(f"/body/{name}", f"unknown form field; images go into {FIELD!r}")
            if isinstance(value, str):
                raise invalid(f"/body/{FIELD}", "a file is expected, with a file name, and text came")
            uploads.append(Upload(value.filename or None, await value.read()))
    finally:
        await form.close()
    if not uploads:
        raise invalid(f"/body/{FIELD}", "at least one image is expected, and none came")
    return tuple(uploads)


def too_many(limit: int) -> Problem:
    """The problem of a request with more images than one request may have."""
    return Problem(
        413,
        "too-many-images",
        "Too many images",
        f"one request with this number of draws may carry {limit} images; split it into several",
    )


async def decode_batch(
    batch: Batch, preprocessing: Preprocessing, decoders: Decoders, caller: str, max_images: int
) -> list[Item]:
    """Decode every image, in a thread unless it is tiny. Raises `ImageError` where no image can fail alone."""
    if batch.array:
        decode = partial(decode_npy, preprocessing=preprocessing, max_images=max_images)
        [stack] = await decoders.map(caller, decode, [batch.uploads[0].data])
        return [Item(None, DecodedImage(pixels=one, converted=None, resized=False)) for one in stack]
    if _is_tiny(batch.uploads, preprocessing):
        items = [decode_upload(batch.uploads[0], preprocessing)]
    else:
        items = await decoders.map(caller, partial(decode_upload, preprocessing=preprocessing), batch.uploads)
    if not batch.many and isinstance(items[0].image, ImageError):
        raise items[0].image
    return items


def _is_tiny(uploads: Sequence[Upload], preprocessing: Preprocessing) -> bool:
    # Where no other size is accepted, the header of a file of another one is all that is read of it.
    return (
        len(uploads) == 1
        and len(uploads[0].data) <= TINY
        and preprocessing.fit == "exact"
        and math.prod(preprocessing.shape) <= TINY
    )


def decode_upload(upload: Upload, preprocessing: Preprocessing) -> Item:
    """Decodes one image; an image that cannot be scored becomes an item with its error."""
    try:
        return Item(upload.filename, decode_image(upload.data, preprocessing))
    except ImageError as error:
        return Item(upload.filename, error)


def decoded(items: Sequence[Item]) -> dict[int, Pixels]:
    """The pixels, shape (C, H, W), of the items that could be decoded, by their index."""
    return {index: item.image.pixels for index, item in enumerate(items) if isinstance(item.image, DecodedImage)}
