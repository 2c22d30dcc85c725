# ruff: noqa: PLC0415 - imported where it runs
"""What stands behind a framework's route: our engine with a model artifact, or normflows' eager Glow.

Reads its settings from the variables that the benchmark gives a server's process.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PORT = int(os.environ.get("SPEED_PORT", "0"))
BATCH = int(os.environ.get("SPEED_BATCH", "16"))
"""Requests that a framework joins at most."""
WAIT_S = 0.01
"""The longest time that it waits for more."""

Score = Callable[[Sequence[Image.Image]], list[float]]


def load() -> Score:
    """Return a function from images to log-likelihoods, by ``SPEED_KIND``."""
    torch.set_num_threads(int(os.environ["SPEED_THREADS"]))
    return _ours() if os.environ["SPEED_KIND"] == "ours" else _normflows()


def opened(data: bytes) -> Image.Image:
    """Return the image in a file."""
    return Image.open(io.BytesIO(data))


def _pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.convert("L"), dtype=np.uint8)[None] for image in images])


def _ours() -> Score:
    from snf_models.scorer import load_model
    from snf_models.scoring.options import EngineOptions

    options = EngineOptions(threads=torch.get_num_threads(), cache=Path(os.environ["SPEED_CACHE"]))
    scorer = load_model(Path(os.environ["SPEED_ARTIFACT"]), options=options)
    return lambda images: [one.log_likelihood for one in scorer.score(_pixels(images))]


def _normflows() -> Score:
    import glow_normflows
    from flows import Side

    levels, steps, width = (int(size) for size in os.environ["SPEED_GLOW"].split(","))
    side = Side("normflows", [1, 28, 28], levels, steps, width, torch.get_num_threads())

    @torch.inference_mode()
    def score(images: Sequence[Image.Image]) -> list[float]:
        x = torch.from_numpy(_pixels(images)).float()
        x = (x + torch.rand_like(x)) / 256 - 0.5
        return glow_normflows.log_prob(side.model, x).tolist()

    return score
