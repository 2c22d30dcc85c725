"""Calls that draw images from a model."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import httpx
import numpy as np

from snf_client.errors import UnexpectedAnswer
from snf_client.images import Pixels
from snf_client.request import Call, T, path, query, read_json
from snf_client.schemas.scores import Samples
from snf_client.transport import Resource, S, operation


class SampleOptions(TypedDict, total=False):
    """Options for drawing images from a model, such as temperature and seed.

    ``temperature``, 0 to 2, scales the standard deviation of the latent noise (default 1.0). The same ``seed`` gives
    the same images; without a seed the service draws one. An image is the inverse of the flow at a latent: ``inverse``
    chooses the exact inverse or the approximate inverse that was learned in training (default exact).
    """

    temperature: float
    seed: int | None
    inverse: Literal["exact", "learned"]


@dataclass(frozen=True)
class SampledPixels:
    """Images drawn from a model as a uint8 array, with the seed that draws the same images again.

    The shape of the array is ``(N, H, W)`` or ``(N, H, W, C)``.
    """

    pixels: Pixels
    seed: int


@dataclass(frozen=True)
class SampleFile:
    """Images drawn from a model as the bytes of one file, with the seed that draws them again.

    The file is a PNG grid, a ``.npy`` array or a zip of PNGs.
    """

    content: bytes
    seed: int


class SamplesResource(Resource[S]):
    """Calls to the service that draw new random images from a model, 1 to 256 at once.

    A model of features alone has no samples: the service refuses with ``InvalidRequest``, type ``samples-unsupported``.
    """

    @operation
    def draw(self, ref: str, n: int = 16, **options: Unpack[SampleOptions]) -> Call[SampledPixels]:
        """Draw ``n`` random images from a model; return their uint8 pixels and the seed that was used.

        ``n`` is from 1 to 256.
        """
        return _samples(ref, n, "npy", _read_pixels, **options)

    @operation
    def scored(self, ref: str, n: int = 16, **options: Unpack[SampleOptions]) -> Call[Samples]:
        """Draw ``n`` random images from a model; return them as base64 PNGs with log-likelihoods in nats."""
        return _samples(ref, n, "json", read_json(Samples), **options)

    @operation
    def file(
        self, ref: str, n: int = 16, *, format: Literal["png", "npy", "zip"] = "png", **options: Unpack[SampleOptions]
    ) -> Call[SampleFile]:
        """Draw ``n`` random images from a model; return one file: a PNG grid, a ``.npy`` array or a zip of PNGs."""
        return _samples(ref, n, format, _read_file, **options)


def _samples(
    ref: str,
    n: int,
    format: str,
    parse: Callable[[httpx.Response], T],
    *,
    temperature: float = 1.0,
    seed: int | None = None,
    inverse: Literal["exact", "learned"] = "exact",
) -> Call[T]:
    params = query(n=n, temperature=temperature, seed=seed, inverse=inverse, format=format)
    return Call("GET", path("models", ref, "samples"), parse, params=params)


def _read_file(response: httpx.Response) -> SampleFile:
    seed = response.headers.get("X-Seed", "")
    if not (seed.isascii() and seed.isdigit()):
        raise UnexpectedAnswer(f"{response.url} answered no samples; check that the address is that of the service")
    return SampleFile(response.content, int(seed))


def _read_pixels(response: httpx.Response) -> SampledPixels:
    file = _read_file(response)
    try:
        return SampledPixels(np.load(io.BytesIO(file.content), allow_pickle=False), file.seed)
    except ValueError as error:
        raise UnexpectedAnswer(f"{response.url} answered no array: {error}") from error
