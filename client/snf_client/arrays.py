"""Arrays and pictures that answers carry as text."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

from app.scoring.schemas import HeatMap


def heat_map_array(heat_map: HeatMap) -> npt.NDArray[np.float64]:
    """The map as float64 of shape (channels, H, W); `heat_map.channels` says what each is.

    >>> from snf_client import Client, heat_map_array
    >>> def where(model: str, path: str) -> float:
    ...     with Client() as client:
    ...         [image] = client.score(model, path, explain=True).results
    ...     assert image.status == "ok" and image.heat_map is not None
    ...     return float(heat_map_array(image.heat_map)[0].sum())  # image.log_likelihood
    """
    found: npt.NDArray[np.float64] = np.load(io.BytesIO(base64.b64decode(heat_map.npy)), allow_pickle=False)
    return found


def heat_map_png(heat_map: HeatMap) -> bytes:
    """The picture of the map over the image, as the bytes of a PNG file."""
    return base64.b64decode(heat_map.png)
