from __future__ import annotations

import numpy as np
from PIL import Image

from snf_runtime.images.batch import Batch
from snf_runtime.images.preprocessing import Pixels, as_image


def pictures(images: Batch, side: int) -> Pixels:
    """Return images as one array ``(N, C, H, W)``; those of a model of tiles are resized to squares first."""
    if isinstance(images, np.ndarray):
        return images
    squares = [np.asarray(as_image(image).resize((side, side), Image.Resampling.BOX)) for image in images]
    return np.stack([square.reshape(side, side, -1).transpose(2, 0, 1) for square in squares])
