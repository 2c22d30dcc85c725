from __future__ import annotations

from typing import Literal

from pydantic import Field

from snf_app.http.schemas import Answer


class Sample(Answer):
    """An image drawn from a model, as base64 PNG, with the log-likelihood of its 8-bit pixels in nats."""

    index: int
    png: str = Field(description="The image as PNG, base64.")
    log_likelihood: float
    bits_per_dim: float
    kind: str


class Samples(Answer):
    """Images drawn from a model, each with its log-likelihood, and the seed that draws the same images again."""

    model: str
    version: int
    seed: int
    temperature: float
    inverse: Literal["exact", "learned"]
    count: int
    samples: list[Sample]
