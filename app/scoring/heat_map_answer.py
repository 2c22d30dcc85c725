"""Heat maps as JSON: a picture to look at, and the numbers."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

from app.http import schemas
from app.scoring.request_images import Pixels

if TYPE_CHECKING:
    from models.anomaly.heat_map import PixelMaps


def heat_map_answer(pixels: Pixels, found: PixelMaps) -> schemas.HeatMap:
    """The answer for one image (C, H, W) and its map."""
    from models.anomaly.heat_map import overlay  # noqa: PLC0415 - SciPy takes time to load

    channels = {"nats": found.nats, "z": found.z}
    if found.gradients is not None:
        channels["gradients"] = found.gradients
    buffer = io.BytesIO()
    np.save(buffer, np.stack(list(channels.values())), allow_pickle=False)
    return schemas.HeatMap(
        png=base64.b64encode(overlay(pixels, found.z)).decode(),
        npy=base64.b64encode(buffer.getvalue()).decode(),
        channels=list(channels),
        lowest_z=float(found.z.min()),
        highest_z=float(found.z.max()),
    )
