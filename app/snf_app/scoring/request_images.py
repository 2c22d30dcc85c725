"""Reading and decoding of the images in the body of a scoring request, within limits."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from snf_app.http.admission import read_body
from snf_app.http.errors import Problem, invalid, unsupported_media_type
from snf_app.scoring.fair_queue import FairQueue
from snf_models.errors import ImageError
from snf_runtime.images.codec import DecodedImage, Preprocessing, decode_image, decode_npy, pixels_of
from snf_runtime.images.files import FORMATS, MAX_PIXELS
from snf_runtime.images.untrusted import never

MULTIPART = "multipart/form-data"
NPY = "application/x-npy"
MEDIA_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS)  # media types of a request body that is one image file
FIELD = "images"
MAX_FIELD_BYTES = 4096
NPY_HEADER_BYTES = 10_012  # most bytes before the data of a ``.npy`` file that NumPy reads

TINY = 4096  # bytes of a file, and values of its image, up to which decoding is faster than a switch of threads

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Upload:
    """An uploaded file of a scoring request: its undecoded bytes, and its file name or None."""

    filename: str | None
    data: bytes


@dataclass(frozen=True)
class ImageUploads:
    """The images of a request before decoding: files, or one NumPy array."""

    uploads: tuple[Upload, ...]
    many: bool = False  # images fail individually, as in a form
    array: bool = False  # the upload is a .npy file

    @property
    def sizes(self) -> list[int]:
        """Bytes of each upload."""
        return [len(upload.data) for upload in self.uploads]


@dataclass(frozen=True)
class Item:
    """Result of decoding one image of a request: the pixels or an error, with the file name or None."""

    filename: str | None
    image: DecodedImage | ImageError


async def read_batch(request: Request, preprocessing: Preprocessing, max_images: int) -> ImageUploads:
    """Read a form, an image file or an array without decoding; raise ``Problem`` 400, 413, 415 or 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == MULTIPART:
        return ImageUploads(await _read_form(request, max_images), many=True)
    if kind in MEDIA_TYPES:
        return ImageUploads((Upload(None, await request.body()),))
    if kind == NPY:
        # After the header, an array that can be scored has one byte per value.
        pixels = MAX_PIXELS if preprocessing.tiled else max_images * preprocessing.height * preprocessing.width
        limit = NPY_HEADER_BYTES + pixels * preprocessing.channels
        return ImageUploads((Upload(None, await read_body(request, limit)),), array=True)
    raise unsupported_media_type(kind, [MULTIPART, *MEDIA_TYPES, NPY])


async def _read_form(request: Request, max_images: int) -> tuple[Upload, ...]:
    async with aclosing(request.stream()) as stream:
        parser = MultiPartParser(
            request.headers, stream, max_files=max_images, max_fields=16, max_part_size=MAX_FIELD_BYTES
        )
        # In memory, where the limit of bodies counts them: a full disk must not refuse scores.
        parser.spool_max_size = sys.maxsize
        try:
            form = await parser.parse()
        except MultiPartException as error:
            files = sum(isinstance(value, UploadFile) for _, value in parser.items)
            if files >= max_images:
                raise too_many(max_images) from error
            raise Problem("malformed-form", f"multipart/form-data: {error.message}") from error
    try:
        uploads = []
        for name, value in form.multi_items():
            if name != FIELD:
                raise invalid(f"/body/{name}", f"unknown form field; images go into {FIELD!r}")
            if isinstance(value, str):
                raise invalid(f"/body/{FIELD}", "expected a file with a file name, got text")
            uploads.append(Upload(value.filename or None, await value.read()))
    finally:
        await form.close()
    if not uploads:
        raise invalid(f"/body/{FIELD}", "expected at least one image, got none")
    return tuple(uploads)


def too_many(limit: int) -> Problem:
    return Problem(
        "too-many-images", f"one request with this number of draws may carry {limit} images; split it into several"
    )


async def source_pixels(batch: ImageUploads, preprocessing: Preprocessing, queue: FairQueue, caller: str) -> list[int]:
    """Return the pixels of each file by its header; of an array a single total."""
    if batch.array:
        return [len(batch.uploads[0].data) // preprocessing.channels]
    if preprocessing.fit == "exact":  # files of another size are refused by their headers
        return [preprocessing.height * preprocessing.width] * len(batch.uploads)
    with _abandoned_after() as is_abandoned:
        read = partial(pixels_of, is_abandoned=is_abandoned)
        return await queue.decode(caller, read, [upload.data for upload in batch.uploads], batch.sizes)


async def decode_batch(
    batch: ImageUploads,
    preprocessing: Preprocessing,
    queue: FairQueue,
    caller: str,
    max_images: int,
    sizes: Sequence[int],
) -> list[Item]:
    """Decode in order; in a form errors are results, else ``ImageError`` is raised. Cancelling ends decoding."""
    if batch.array:
        decode = partial(decode_npy, preprocessing=preprocessing, max_images=max_images)
        [stack] = await queue.decode(caller, decode, [batch.uploads[0].data], batch.sizes, sizes)
        return [Item(None, DecodedImage(pixels=pixels, converted=None, resized=False)) for pixels in stack]
    if _is_tiny(batch.uploads, preprocessing):
        items = [decode_upload(batch.uploads[0], preprocessing)]
    else:
        with _abandoned_after() as is_abandoned:
            decode_one = partial(decode_upload, preprocessing=preprocessing, is_abandoned=is_abandoned)
            items = await queue.decode(caller, decode_one, batch.uploads, batch.sizes, sizes)
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


@contextmanager
def _abandoned_after() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the ``with`` block has ended, for threads."""
    ended = threading.Event()
    try:
        yield ended.is_set
    finally:
        ended.set()


def decode_upload(upload: Upload, preprocessing: Preprocessing, is_abandoned: Callable[[], bool] = never) -> Item:
    """Decode a file for a model; the item has the error if that fails."""
    try:
        return Item(upload.filename, decode_image(upload.data, preprocessing, is_abandoned))
    except ImageError as error:
        return Item(upload.filename, error)


def decoded(items: Sequence[Item]) -> dict[int, Pixels]:
    """Return the pixels, uint8 ``(C, H, W)``, of the images that could be decoded, by index."""
    return {index: item.image.pixels for index, item in enumerate(items) if isinstance(item.image, DecodedImage)}
