"""Calls that draw images from a model."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import httpx
import numpy as np

from app.samples.schemas import Samples as ScoredSamples
from snf_client.errors import UnexpectedAnswer
from snf_client.images import Pixels
from snf_client.request import Call, given, model, path
from snf_client.transport import Group, S, operation

Inverse = Literal["exact", "learned"]


@dataclass(frozen=True)
class Drawn:
    """Images, uint8 of shape (N, H, W) or (N, H, W, C), and the seed that gives them again."""

    pixels: Pixels
    seed: int


@dataclass(frozen=True)
class Drawing:
    """The same as a file: a PNG grid, a `.npy` array or a zip of PNGs."""

    content: bytes
    seed: int


class Samples(Group[S]):
    """Samples of a model: `n` images, 1 to 256; the same seed gives the same images, none a new one."""

    @operation
    def draw(
        self, ref: str, n: int = 16, *, temperature: float = 1.0, seed: int | None = None, inverse: Inverse = "exact"
    ) -> Call[Drawn]:
        """Images as an array."""
        params = given(n=n, temperature=temperature, seed=seed, inverse=inverse, format="npy")
        return Call("GET", path("models", ref, "samples"), _drawn, params=params)

    @operation
    def scored(
        self, ref: str, n: int = 16, *, temperature: float = 1.0, seed: int | None = None, inverse: Inverse = "exact"
    ) -> Call[ScoredSamples]:
        """Images with the exact log-likelihood of each one's 8-bit pixels, nats."""
        params = given(n=n, temperature=temperature, seed=seed, inverse=inverse, format="json")
        return Call("GET", path("models", ref, "samples"), model(ScoredSamples), params=params)

    @operation
    def file(
        self,
        ref: str,
        n: int = 16,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        inverse: Inverse = "exact",
        format: Literal["png", "npy", "zip"] = "png",
    ) -> Call[Drawing]:
        """Images as a file."""
        params = given(n=n, temperature=temperature, seed=seed, inverse=inverse, format=format)
        return Call("GET", path("models", ref, "samples"), _drawing, params=params)


def _drawing(response: httpx.Response) -> Drawing:
    return Drawing(response.content, int(response.headers["X-Seed"]))


def _drawn(response: httpx.Response) -> Drawn:
    file = _drawing(response)
    try:
        return Drawn(np.load(io.BytesIO(file.content), allow_pickle=False), file.seed)
    except ValueError as error:
        raise UnexpectedAnswer(f"{response.url} answered no array: {error}") from error
