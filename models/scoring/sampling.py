"""Sampling of images from a frozen flow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.bijections.frozen import Inverse
from models.scoring.engines import Engine
from models.scoring.frozen import FrozenFlow


@torch.inference_mode()
def sample_frozen(
    engine: Engine,
    frozen: FrozenFlow,
    n: int,
    temperature: float = 1.0,
    seed: int = 0,
    inverse: Inverse = "exact",
    first: int = 0,
) -> NDArray[np.float64]:
    """Draw dequantised images from the flow, by the inverse of normal latents.

    Image i of a seed depends only on the seed and i. No global random state is used.

    Args:
        engine: The engine that runs the flow.
        frozen: The flow.
        n: The number of images.
        temperature: Standard deviation of the latents.
        seed: The seed.
        inverse: The exact or the learned inverse of the flow.
        first: Number of the first image of the seed.

    Returns:
        Images, float64 ``(n, C, H, W)``.
    """
    shapes = frozen.latent_shapes()
    dimensions = int(np.prod(frozen.image_shape))
    noise = np.stack([np.random.default_rng((seed, i)).standard_normal(dimensions) for i in range(first, first + n)])
    parts = np.split(noise * temperature, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
    scales = [torch.from_numpy(part.reshape(n, *shape)) for part, shape in zip(parts, shapes, strict=True)]
    images: NDArray[np.float64] = frozen.pixels.inverse(engine.inverse(scales, inverse))[0].numpy()
    return images


def to_pixels(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return dequantised images rounded down to pixels and clipped to [0, 255], uint8."""
    return np.floor(images).clip(0, 255).astype(np.uint8)
