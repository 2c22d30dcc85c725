"""Copies among reference images, equal or saved, resized or brightened again: a group of copies gives one rank."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_models.anomaly.fitting.reference_images import ImageRows
from snf_runtime.images.preprocessing import as_image

SIDE = 32
"""Side of the grey pictures that are compared, in pixels."""
NEAR = 0.07
"""Largest distance, as a share of the median; hashes of 64 bits confuse one pair of digits in 400 within 3 bits."""
FLAT = 1.0
"""Standard deviation, in grey levels, up to which a picture shows too little to be compared."""
PAIRS = 5000
MAX_COMPARED = 20_000
"""Most images among which near copies are looked for: each is compared with each, and 4 KB of each are held."""
BATCH = 256
SEED = 0


def first_copies(*parts: ImageRows) -> NDArray[np.intp]:
    """Return the first image that each is a copy of; beyond ``MAX_COMPARED`` images only equal pixels count."""
    pictures, exact = _pictures(parts)
    if len(exact) > MAX_COMPARED:
        return np.array(exact, dtype=np.intp)
    first = np.arange(len(exact))
    limit = NEAR * _median_distance(pictures)
    for start in range(0, len(exact), BATCH):
        block = pictures[start : start + BATCH]
        # Pictures have norm 1, or 0 where they are flat: these are far from all.
        near = np.asarray(2 - 2 * block @ pictures[: start + len(block)].T <= limit**2)
        for index, of_image in enumerate(near, start):
            # An image joins the first image of a group, not any member: a chain of small steps is no copy.
            earlier = [exact[index], *np.flatnonzero(of_image[:index]).tolist()]
            first[index] = next((other for other in sorted(earlier) if other < index and first[other] == other), index)
    return first


def one_fold_for_copies(folds: NDArray[np.integer], first: NDArray[np.intp]) -> NDArray[np.int8]:
    """Return folds with copies in one fold, or ``folds`` where fewer than two would be left."""
    used, together = np.unique(folds[first], return_inverse=True)
    return together.astype(np.int8) if len(used) > 1 else folds.astype(np.int8)


def _pictures(parts: tuple[ImageRows, ...]) -> tuple[NDArray[np.float32], list[int]]:
    """Return pictures of the images, ``(n, 1024)``, and for each the index of the first with equal pixels."""
    pictures: list[NDArray[np.float32]] = []
    exact: list[int] = []
    known: dict[bytes, int] = {}
    compared = sum(map(len, parts)) <= MAX_COMPARED
    for part in parts:
        for start in range(0, len(part), BATCH):
            for image in part[start : start + BATCH]:
                digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()
                exact.append(known.setdefault(digest, len(exact)))
                if not compared:
                    continue
                small = as_image(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                picture = np.asarray(small, dtype=np.float32).ravel()
                picture = picture - picture.mean()
                spread = float(picture.std())
                pictures.append(picture / (SIDE * spread) if spread > FLAT else np.zeros_like(picture))
    return np.stack(pictures) if pictures else np.zeros((0, SIDE * SIDE), np.float32), exact


def _median_distance(pictures: NDArray[np.float32]) -> float:
    shown = pictures[pictures.any(1)]
    if len(shown) < 2:
        return 0.0
    left, right = np.random.default_rng(SEED).integers(0, len(shown), (2, PAIRS))
    different = left != right
    return float(np.median(np.linalg.norm(shown[left[different]] - shown[right[different]], axis=1)))
