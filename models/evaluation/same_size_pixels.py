"""Images of an evaluation as one pixel array, for simple baseline scores and for display."""

from __future__ import annotations

import numpy as np
from PIL import Image

from snf_runtime.images.batch import Batch
from snf_runtime.images.preprocessing import Pixels, as_image


def pictures(images: Batch, side: int) -> Pixels:
    """Return a batch of images as one pixel array ``(N, C, H, W)``.

    Images of a tiled model, which may differ in size, are resized to squares first.

    Args:
        images: The images.
        side: The side of the squares in pixels.
    """
    if isinstance(images, np.ndarray):
        return images
    squares = [np.asarray(as_image(image).resize((side, side), Image.Resampling.BOX)) for image in images]
    return np.stack([square.reshape(side, side, -1).transpose(2, 0, 1) for square in squares])
