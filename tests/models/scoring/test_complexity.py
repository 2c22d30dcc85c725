"""Complexity against the predictor written out pixel by pixel, and its independence from any compressor."""

import ast
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

import snf_models.anomaly
import snf_runtime.anomaly
from snf_models.datasets import load_dataset
from snf_runtime.scoring.evidence import residual_entropy
from tests.models.helpers import real_images

FILES = [
    file for package in (snf_models.anomaly, snf_runtime.anomaly) for file in Path(package.__path__[0]).glob("*.py")
]


def photo_crops(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Crops of a photograph, ``(count, 3, height, width)``."""
    photo = np.asarray(load_sample_image("china.jpg")).transpose(2, 0, 1)
    return np.stack([photo[:, 60 * i : 60 * i + height, 90 * i : 90 * i + width] for i in range(count)])


def prediction(left: int | None, upper: int | None, corner: int | None) -> int:
    """The MED predictor by its three cases, as LOCO-I words it; at the edges the one neighbour there is."""
    if left is None or upper is None or corner is None:
        return left if left is not None else upper if upper is not None else 0
    if corner >= max(left, upper):
        return min(left, upper)
    if corner <= min(left, upper):
        return max(left, upper)
    return left + upper - corner


def entropy_by_hand(image: NDArray[np.uint8]) -> float:
    residuals: Counter[int] = Counter()
    for channel in image.tolist():
        for i, row in enumerate(channel):
            for j, value in enumerate(row):
                left = row[j - 1] if j else None
                upper = channel[i - 1][j] if i else None
                corner = channel[i - 1][j - 1] if i and j else None
                residuals[(value - prediction(left, upper, corner)) % 256] += 1
    total = sum(residuals.values())
    return -sum(count / total * math.log2(count / total) for count in residuals.values())


@pytest.mark.parametrize(
    "images",
    [
        real_images(12),
        real_images(4, 20, 3),
        load_dataset("mnist-mini", None).test[:8, :, 3:20, 5:24],
        photo_crops(4, 24, 31),
        photo_crops(2, 1, 17),
        photo_crops(2, 17, 1),
        np.random.default_rng(0).integers(0, 256, (3, 4, 9, 8)).astype(np.uint8),
        np.stack([np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)]),
    ],
    ids=["digits", "digits-3", "sliced", "photo", "row", "column", "noise", "constant"],
)
def test_every_pixel_by_hand(images: NDArray[np.uint8]) -> None:
    expected = [entropy_by_hand(image) for image in images]
    np.testing.assert_allclose(residual_entropy(images), expected, rtol=1e-12, atol=1e-12)


def test_layout_in_memory_and_company_do_not_matter() -> None:
    images = np.concatenate([photo_crops(5, 28, 28), real_images(4, 28, 3)])
    together = residual_entropy(images)
    larger = np.zeros((18, 3, 28, 56), np.uint8)
    larger[::2, :, :, ::2] = images
    others = {
        "fortran": np.asfortranarray(images),
        "slices": larger[::2, :, :, ::2],
        "channels last": np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "read-only": np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape),
    }
    for name, other in others.items():
        assert np.array_equal(residual_entropy(other), together), name
    alone = np.concatenate([residual_entropy(image[None]) for image in images])
    assert np.array_equal(alone, together)
    assert np.array_equal(residual_entropy(images[::-1])[::-1], together)


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_only_pictures_know_of_png() -> None:
    compressors = ("zlib", "gzip", "bz2", "lzma", "zipfile", "PIL", "snf_runtime.images.codec")
    guilty = {
        path.name
        for path in FILES
        if any(name == c or name.startswith(f"{c}.") for name in imported(path) for c in compressors)
    }
    assert guilty == {"heat_map_picture.py", "reference_images.py"}
    drawing = {path.name for path in FILES if "snf_runtime.anomaly.maps" in imported(path)}
    # Results of judging hold heat maps; no statistic is computed from one.
    assert drawing
    assert not drawing & {"statistics.py", "distributions.py", "statistic_densities.py"}
