"""Conversion of images (files, bytes, PIL images, arrays) to request bodies, and decoding of heat maps."""

from __future__ import annotations

import base64
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from snf_client.schemas.scores import HeatMap

Pixels = npt.NDArray[np.uint8]
ImageLike: TypeAlias = str | Path | bytes | Image.Image | Pixels
"""A file's path, its bytes, a PIL image, or uint8 pixels of shape (H, W) or (H, W, C)."""
ImagesLike: TypeAlias = ImageLike | Iterable[ImageLike]
"""One image, several, or an array of several of shape (N, H, W) or (N, H, W, C)."""

CHANNELS = (1, 3, 4)
"""Lengths of a last axis that are channels: shape (28, 28, 3) is one image, shape (28, 28, 28) is 28 images."""
NPY = "application/x-npy"
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
MAX_FILE_BYTES = 64 * 2**20
"""Bytes of an image file at most, the limit of the service for a file of a dataset, too."""


class UnreadableFile(Exception):
    """Raised when a local image file is not a plain file or is too large.

    ``type`` and ``title`` are those of the error in the result of the image.
    """

    def __init__(self, type: str, title: str, detail: str) -> None:
        super().__init__(f"{title}: {detail}")
        self.type = type
        self.title = title
        self.detail = detail


@dataclass(frozen=True)
class ImageBatch:
    """Images of one request: arrays of the same shape, or any mix of paths, bytes and PIL images."""

    images: tuple[ImageLike, ...]

    @property
    def names(self) -> list[str | None]:
        """The path of each image; None for one without a file."""
        return [_path_text(image) if isinstance(image, str | Path) else None for image in self.images]

    def body(self) -> dict[str, Any]:
        """Return the body as keywords of ``httpx``: ``content`` of arrays or ``files``, which are read here."""
        if isinstance(self.images[0], np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, np.stack(self.images))  # type: ignore[arg-type]
            return {"content": buffer.getvalue(), "headers": {"Content-Type": NPY}}
        return {"files": [("images", (_name(image, index), _encode(image))) for index, image in enumerate(self.images)]}

    def halves(self) -> tuple[ImageBatch, ImageBatch]:
        middle = len(self.images) // 2
        return ImageBatch(self.images[:middle]), ImageBatch(self.images[middle:])


def batches(images: ImagesLike, size: int) -> Iterator[ImageBatch]:
    """Split images, as they are asked for, into batches; one also ends where kind or shape of arrays changes."""
    for _, alike in groupby(iter_images(images), _array_shape):
        while batch := tuple(islice(alike, size)):
            yield ImageBatch(batch)


def iter_images(images: ImagesLike) -> Iterator[ImageLike]:
    """Yield images one by one; raise ``TypeError`` for an unsupported type, ``ValueError`` for another shape."""
    if isinstance(images, np.ndarray):
        several = images.ndim == 4 or (images.ndim == 3 and images.shape[-1] not in CHANNELS)
        yield from map(_check_array, images if several else [images])
    elif isinstance(images, str | Path | bytes | Image.Image):
        yield images
    elif isinstance(images, Iterable):
        for image in images:
            if isinstance(image, np.ndarray):
                yield _check_array(image)
            elif isinstance(image, str | Path | bytes | Image.Image):
                yield image
            else:
                raise TypeError(f"expected a path, bytes, a PIL image or an array, got {type(image).__name__}")
    else:
        raise TypeError(f"expected images, got {type(images).__name__}")


def heat_map_array(heat_map: HeatMap) -> npt.NDArray[np.float64]:
    """Decode a heat map to an array of shape ``(channels, H, W)``.

    The type is float64. ``heat_map.channels`` names the channels.

    The first channel holds the contribution of every pixel to the log-likelihood in nats: its sum is the
    log-likelihood of the image, with several draws that of the first draw.

    >>> from snf_client import Client, heat_map_array
    >>> def log_likelihood(model: str, path: str) -> float:
    ...     with Client() as client:
    ...         [image] = client.score(model, path, explain=True).results
    ...     assert image.status == "ok" and image.heat_map is not None
    ...     return float(heat_map_array(image.heat_map)[0].sum())  # image.log_likelihood
    """
    array: npt.NDArray[np.float64] = np.load(io.BytesIO(base64.b64decode(heat_map.npy)), allow_pickle=False)
    return array


def heat_map_png(heat_map: HeatMap) -> bytes:
    """Return a heat map as PNG bytes: the grey image under coloured pixels.

    Red pixels are less likely than usual.

    Regions are outlined in yellow.
    """
    return base64.b64decode(heat_map.png)


def _check_array(array: Pixels) -> Pixels:
    if array.dtype != np.uint8:
        raise TypeError(f"expected an array of uint8, got {array.dtype}")
    if array.ndim == 2:
        return array
    if array.ndim != 3 or array.shape[-1] not in CHANNELS:
        raise ValueError(f"expected an image of shape (H, W) or (H, W, C), got {array.shape}")
    return array[:, :, 0] if array.shape[-1] == 1 else array


def _array_shape(image: ImageLike) -> tuple[int, ...] | None:
    return image.shape if isinstance(image, np.ndarray) else None


def _name(image: ImageLike, index: int) -> str:
    return _path_text(image) if isinstance(image, str | Path) else f"image-{index}"


def _path_text(path: str | Path) -> str:
    # Names of files need not be UTF-8, JSON must be.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _encode(image: ImageLike) -> bytes:
    match image:
        case bytes():
            return image
        case Image.Image():
            return _encode_pil(image)
        case str() | Path():
            return _read(Path(image))
    raise TypeError(f"expected a file or a PIL image, got an array of shape {image.shape}")


def _encode_pil(image: Image.Image) -> bytes:
    """Return a PIL image as a file, upright as its EXIF orientation says. TIFF has the modes that PNG lacks."""
    buffer = io.BytesIO()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in PNG_MODES:
        upright.save(buffer, "PNG", compress_level=1)
    else:
        upright.save(buffer, "TIFF")
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    """Return the content of a file. A pipe would block for ever, and a huge file fill the memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile("unreadable-image", "The file cannot be read", "expected a plain file, no folder or pipe")
    if status.st_size > MAX_FILE_BYTES:
        raise UnreadableFile("file-too-large", "The file is too large", f"at most {MAX_FILE_BYTES} bytes are taken")
    return path.read_bytes()
