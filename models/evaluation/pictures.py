"""Images of an evaluation as one array of pictures: to compare simple scores with, and to show."""

from __future__ import annotations

import numpy as np
from PIL import Image

from snf_runtime.images.batch import Batch
from snf_runtime.images.preprocessing import Pixels, as_image


def pictures(images: Batch, side: int) -> Pixels:
    """Return images as one array ``(N, C, H, W)``. The images of a tiled model are resized to squares first.

    Args:
        images: The images.
        side: The side of the squares in pixels.
    """
    if isinstance(images, np.ndarray):
        return images
    squares = [np.asarray(as_image(image).resize((side, side), Image.Resampling.BOX)) for image in images]
    return np.stack([square.reshape(side, side, -1).transpose(2, 0, 1) for square in squares])
