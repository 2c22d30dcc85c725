"""Images drawn from a frozen flow."""

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
    """Draw ``n`` dequantised images, float64 ``(n, C, H, W)``, from latents of deviation ``temperature``.

    The images are number ``first``, ``first + 1``, ... of the seed; image i depends on the seed and i alone. No global
    random state is read or moved.
    """
    shapes = frozen.latent_shapes()
    dimensions = int(np.prod(frozen.image_shape))
    noise = np.stack([np.random.default_rng((seed, i)).standard_normal(dimensions) for i in range(first, first + n)])
    parts = np.split(noise * temperature, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
    scales = [torch.from_numpy(part.reshape(n, *shape)) for part, shape in zip(parts, shapes, strict=True)]
    images: NDArray[np.float64] = frozen.pixels.inverse(engine.inverse(scales, inverse))[0].numpy()
    return images


def to_pixels(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Round dequantised images down to pixels, what lies outside [0, 256) to its ends."""
    return np.floor(images).clip(0, 255).astype(np.uint8)
