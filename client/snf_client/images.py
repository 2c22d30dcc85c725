"""Images as callers have them - files, bytes, PIL images, arrays - as bodies of scoring requests, in their order."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Picture: TypeAlias = str | Path | bytes | Image.Image | Pixels
"""A file's path, its bytes, a PIL image, or pixels of shape (H, W) or (H, W, C)."""
Pictures: TypeAlias = Picture | Iterable[Picture]
"""One image, many, or an array of many of shape (N, H, W) or (N, H, W, C)."""

CHANNELS = (1, 3, 4)
"""Lengths of a last axis that are channels: an array of shape (28, 28, 3) is one image, (28, 28, 28) are 28."""
NPY = "application/x-npy"


@dataclass(frozen=True)
class Batch:
    """Images of one request: all files, or all arrays of one shape."""

    pictures: tuple[Picture, ...]

    @property
    def names(self) -> list[str | None]:
        """The path of each image that is a file."""
        return [_text(one) if isinstance(one, str | Path) else None for one in self.pictures]

    def body(self) -> dict[str, Any]:
        """Keywords of httpx for the request; reads the files."""
        if isinstance(self.pictures[0], np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, np.stack(self.pictures))  # type: ignore[arg-type]
            return {"content": buffer.getvalue(), "headers": {"Content-Type": NPY}}
        return {"files": [("images", (_name(one, place), _encoded(one))) for place, one in enumerate(self.pictures)]}

    def halves(self) -> tuple[Batch, Batch]:
        """The same images as two requests."""
        middle = len(self.pictures) // 2
        return Batch(self.pictures[:middle]), Batch(self.pictures[middle:])


def batches(pictures: Pictures, size: int) -> Iterator[Batch]:
    """Cuts images into requests of at most `size`, as they come; raises `TypeError` and `ValueError`."""
    for _, alike in groupby(each(pictures), _kind):
        while found := tuple(islice(alike, size)):
            yield Batch(found)


def each(pictures: Pictures) -> Iterator[Picture]:
    """The single images, checked."""
    if isinstance(pictures, np.ndarray):
        yield from _images_of(pictures)
    elif isinstance(pictures, str | Path | bytes | Image.Image):
        yield pictures
    elif isinstance(pictures, Iterable):
        for one in pictures:
            if isinstance(one, np.ndarray):
                yield _one_image(one)
            elif isinstance(one, str | Path | bytes | Image.Image):
                yield one
            else:
                raise TypeError(f"expected a path, bytes, a PIL image or an array, got {type(one).__name__}")
    else:
        raise TypeError(f"expected images, got {type(pictures).__name__}")


def _images_of(array: Pixels) -> Iterator[Pixels]:
    many = array.ndim == 4 or (array.ndim == 3 and array.shape[-1] not in CHANNELS)
    for one in array if many else [array]:
        yield _one_image(one)


def _one_image(array: Pixels) -> Pixels:
    if array.dtype != np.uint8:
        raise TypeError(f"expected an array of uint8, got {array.dtype}")
    if array.ndim == 2:
        return array
    if array.ndim != 3 or array.shape[-1] not in CHANNELS:
        raise ValueError(f"expected an image of shape (H, W) or (H, W, C), got {array.shape}")
    return array[:, :, 0] if array.shape[-1] == 1 else array


def _kind(picture: Picture) -> tuple[int, ...] | None:
    return picture.shape if isinstance(picture, np.ndarray) else None


def _name(picture: Picture, place: int) -> str:
    return _text(picture) if isinstance(picture, str | Path) else f"image-{place}"


def _text(path: str | Path) -> str:
    # Names of files need not be UTF-8, what is sent must.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _encoded(picture: Picture) -> bytes:
    match picture:
        case bytes():
            return picture
        case Image.Image():
            buffer = io.BytesIO()
            picture.save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()
        case str() | Path():
            return Path(picture).read_bytes()
    raise TypeError(f"expected no array, got one of shape {picture.shape}")
