"""Sampling of random images from a frozen (immutable) flow."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from snf_models.artifacts.manifest import Precision
from snf_models.bijections.frozen import Inverse
from snf_models.errors import NoLearnedInverse
from snf_models.scoring.engines.flow_engine import FlowEngine
from snf_models.scoring.frozen import FrozenFlow
from snf_runtime.steps import Steps, step_size


@torch.inference_mode()
def sample_frozen(
    engine: FlowEngine,
    frozen: FrozenFlow,
    n: int,
    temperature: float = 1.0,
    seed: int = 0,
    inverse: Inverse = "exact",
    first: int = 0,
) -> NDArray[np.float64]:
    """Draw images, float64 ``(n, C, H, W)``: image i depends on the seed and i alone."""
    shapes = frozen.latent_shapes()
    dimensions = int(np.prod(frozen.image_shape))
    noise = np.stack([np.random.default_rng((seed, i)).standard_normal(dimensions) for i in range(first, first + n)])
    parts = np.split(noise * temperature, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
    scales = [part.reshape(n, *shape) for part, shape in zip(parts, shapes, strict=True)]
    y = torch.from_numpy(engine.inverse(scales, inverse))
    images: NDArray[np.float64] = frozen.pixels.inverse(y)[0].numpy()
    return images


def to_pixels(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.floor(images).clip(0, 255).astype(np.uint8)


class Sampler:
    """Source of random images of a flow: image i depends on the seed and i alone."""

    def __init__(self, engine: FlowEngine, frozen: FrozenFlow, threads: int | None = None) -> None:
        self.engine = engine
        self.frozen = frozen
        self.has_learned_inverse = frozen.has_learned_inverse
        self.engine_name = engine.name
        self.precision: Precision = engine.precision
        self.tile = engine.tile
        self._threads = threads

    @property
    def at_once(self) -> int:
        """Images between two pauses: a tile a thread, fewer large ones."""
        return step_size(math.prod(self.frozen.image_shape[1:]), self._threads or torch.get_num_threads())

    def sample(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.uint8]:
        """Draw images from ``first`` on, uint8 ``(n, C, H, W)``; ``NoLearnedInverse`` if the flow has none."""
        return to_pixels(self.sample_continuous(n, temperature, seed, inverse, first))

    def sample_steps(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact"
    ) -> Steps[NDArray[np.uint8]]:
        """Draw as :meth:`sample` in a generator that pauses between small groups."""
        parts = []
        for first in range(0, n, self.at_once):
            if first:
                yield
            parts.append(self.sample(min(self.at_once, n - first), temperature, seed, inverse, first))
        return np.concatenate(parts)

    def sample_continuous(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.float64]:
        """Draw as :meth:`sample`, but unrounded in float64."""
        if inverse == "learned" and not self.has_learned_inverse:
            raise NoLearnedInverse("every layer of this model is inverted exactly; ask for inverse=exact")
        return sample_frozen(self.engine, self.frozen, n, temperature, seed, inverse, first)
