"""ImageNet of 32x32 pixels from its public files: ``train_data_batch_1.npz`` to ``_10.npz`` and ``val_data.npz``.

Chrabaszcz et al. 2017, A Downsampled Variant of ImageNet. Each file has ``data``, uint8 ``(N, 3072)`` in the order
(channel, row, column), ``labels`` and, for training, ``mean``. The program downloads nothing: put the files into the
folder ``imagenet32`` of ``SNF_DATA_DIR``. Its official validation images are the test set. 20,000 training images,
drawn with a fixed seed, are the validation set (the published code draws others after each restart).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snf_models.datasets import Dataset
from snf_models.datasets.dataset import digest_of
from snf_models.errors import DatasetUnfit
from snf_runtime.images.codec import npy_header

NAME = "imagenet32"
SHAPE = (3, 32, 32)
TRAIN, TEST = [f"train_data_batch_{number}.npz" for number in range(1, 11)], "val_data.npz"
VALIDATION = 20_000
MAX_VALIDATION_SHARE = 0.1
"""Of a smaller set of the same form, at most this share of the training images."""
SEED = 0


def available(folder: Path) -> bool:
    """Whether a folder has all files: a part of the training images would be another dataset."""
    return not missing(folder)


def missing(folder: Path) -> list[str]:
    """Return the names of the files that a folder lacks."""
    return [name for name in (*TRAIN, TEST) if not (folder / name).is_file()]


def load(folder: Path) -> Dataset:
    """Return the images of a folder as a dataset.

    Args:
        folder: Folder of the files as downloaded.

    Raises:
        DatasetUnfit: A file is missing or damaged, or its images have another size; the text names it.
    """
    if lacking := missing(folder):
        raise DatasetUnfit(
            f"expected {TRAIN[0]} to {TRAIN[-1]} and {TEST} in {folder.name}, got a folder without {', '.join(lacking)}"
        )
    files = [folder / name for name in TRAIN]
    counts = [_count(path) for path in files]
    images = np.empty((sum(counts), *SHAPE), np.uint8)
    for path, end, count in zip(files, np.cumsum(counts), counts, strict=True):
        # Into one array of all images: a list of arrays and their concatenation would take twice the memory.
        images[end - count : end] = _read(path)
    test = _read(folder / TEST)
    held_out = min(VALIDATION, int(MAX_VALIDATION_SHARE * len(images)))
    chosen = np.zeros(len(images), bool)
    chosen[np.random.default_rng(SEED).choice(len(images), held_out, replace=False)] = True
    statistics = images[chosen]
    return Dataset(NAME, images[~chosen], statistics, statistics[:0], test, digest_of(images, test))


def _count(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as arrays, arrays.open("data.npy") as header:
            shape, _, dtype = npy_header(header)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetUnfit(f"{path.name} is not an .npz file with images in data: {error}") from error
    if len(shape) != 2 or shape[1] != np.prod(SHAPE) or dtype != np.uint8:
        raise DatasetUnfit(f"{path.name}: expected uint8 data (N, {np.prod(SHAPE)}), got {dtype} {shape}")
    return shape[0]


def _read(path: Path) -> NDArray[np.uint8]:
    count = _count(path)
    with np.load(path, allow_pickle=False) as arrays:
        data: NDArray[np.uint8] = arrays["data"]
    return data.reshape(count, *SHAPE)
