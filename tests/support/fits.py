"""Models of digits that take files of any size, and a file with a stain whose place in it is known."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from snf_models.artifacts.manifest import FILE
from snf_models.datasets import load_dataset
from snf_runtime.images.preprocessing import Box, Fit

FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")
SIZES: dict[Fit, tuple[int, int]] = {"crop": (200, 112), "stretch": (140, 112), "pad": (88, 112), "exact": (28, 28)}
"""Width and height of the file for each fit."""


def with_fit(artifact: Path, fit: Fit, folder: Path) -> Path:
    """Return a copy of an artifact in ``folder`` whose preprocessing resizes files."""
    shutil.copytree(artifact, folder)
    manifest = json.loads((folder / FILE).read_text())
    manifest["preprocessing"]["fit"] = fit
    (folder / FILE).write_text(json.dumps(manifest))
    return folder


def stained_file(fit: Fit) -> tuple[bytes, Box]:
    """Return a PNG of an enlarged digit with a striped stain, and the box of the stain in the file."""
    width, height = SIZES[fit]
    digit = load_dataset("mnist-mini", None).test[0, 0]
    side = min(width, height)
    canvas = np.zeros((height, width), dtype=np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    canvas[top : top + side, left : left + side] = np.asarray(Image.fromarray(digit).resize((side, side)))
    size = side // 4
    box = (left + 3 * size // 2, top + size // 4, left + 5 * size // 2, top + 5 * size // 4)
    # Stripes, wide enough that resizing does not smooth them away.
    canvas[box[1] : box[3], box[0] : box[2]] = np.arange(size) // (side // 18) % 2 * 120
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, format="PNG")
    return file.getvalue(), box


def covered(box: Box, stain: Box) -> float:
    """Return the share of a stain that a box covers."""
    width = max(0, min(box[2], stain[2]) - max(box[0], stain[0]))
    height = max(0, min(box[3], stain[3]) - max(box[1], stain[1]))
    return width * height / ((stain[2] - stain[0]) * (stain[3] - stain[1]))
