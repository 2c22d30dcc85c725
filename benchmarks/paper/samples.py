"""Figure 2: samples of the shipped models by the exact and by the learned inverse, from the same latents."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer, load_model

SHOWN = 16
SEED = 0


def measure(count: int) -> dict[str, Any]:
    """Return how far samples by the two inverses differ, by model, with some of them as pictures.

    Args:
        count: Samples of each model.
    """
    paths = {path.parents[1].name: path.parent for path in sorted(ZOO.glob("*/1/manifest.json"))}
    return {"seed": SEED, "models": {name: compare(load_model(path), count) for name, path in track(paths.items())}}


def compare(scorer: Scorer, count: int) -> dict[str, Any]:
    """Return the differences of samples by the two inverses, in steps of pixel values, 0 to 255."""
    exact, learned = (
        scorer.trained.sampler.sample_continuous(count, 1.0, SEED, inverse) for inverse in ("exact", "learned")
    )
    difference = np.abs(exact.clip(0, 256) - learned.clip(0, 256))
    pixels = [pixels_of(images) for images in (exact, learned)]
    return {
        "samples": count,
        "mean_absolute_difference": float(difference.mean()),
        "largest_difference": float(difference.max()),
        "equal_pixels": float((pixels[0] == pixels[1]).mean()),
        "shown": {"exact": packed(pixels[0][:SHOWN]), "learned": packed(pixels[1][:SHOWN])},
    }


def pixels_of(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return continuous images as whole pixel values."""
    return np.floor(images).clip(0, 255).astype(np.uint8)


def packed(images: NDArray[np.uint8]) -> dict[str, Any]:
    """Return images as a JSON object."""
    return {"shape": list(images.shape), "zlib": base64.b64encode(zlib.compress(images.tobytes(), 9)).decode()}


def unpacked(document: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the images of a JSON object.

    >>> unpacked(packed(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))).tolist()
    [[[0, 1, 2], [3, 4, 5]]]
    """
    content = zlib.decompress(base64.b64decode(document["zlib"]))
    return np.frombuffer(content, np.uint8).reshape(document["shape"])
