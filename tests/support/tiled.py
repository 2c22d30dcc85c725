"""Mosaics of real digits in many sizes, and a model that scores them tile by tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.atomic_files import locked
from models.datasets import DatasetStore, Source, load_dataset
from models.scoring.options import EngineOptions
from models.training.presets import find_preset
from models.training.run import train
from snf_runtime.images.batch import stacked
from snf_runtime.images.codec import encode_png
from tests.support.backbones import backbone_folder
from tests.support.paths import shared_folder

SIDE = 64
"""Side of a tile: features at 4x4 places, so that a fit takes seconds."""
DIGIT = 28
TRAINED_ON, OTHERS, FAULTY = "mosaics", "more-mosaics", "faulty-mosaics"
"""Datasets of mosaics: to train on, to calibrate and evaluate on, and with a fault."""


def mosaic(seed: int, rows: int | None = None, columns: int | None = None) -> NDArray[np.uint8]:
    """Return a mosaic of real digits at random places, uint8 ``(1, H, W)``.

    Args:
        seed: The seed of size and digits.
        rows: Rows of digits; None for 2 to 5.
        columns: Columns of digits; None for 2 to 5.
    """
    digits = stacked(load_dataset("mnist-mini", None).train)[:, 0]
    random = np.random.default_rng(seed)
    size = random.integers(2, 6, 2)
    rows, columns = rows or int(size[0]), columns or int(size[1])
    chosen = digits[random.integers(0, len(digits), rows * columns)].reshape(rows, columns, DIGIT, DIGIT)
    return chosen.transpose(0, 2, 1, 3).reshape(1, rows * DIGIT, columns * DIGIT)


def with_fault(image: NDArray[np.uint8], top: int, left: int) -> NDArray[np.uint8]:
    """Return a copy of an image with a chequered square of 16 pixels at a place."""
    damaged = image.copy()
    damaged[:, top : top + 16, left : left + 16] = (np.indices((16, 16)) // 2).sum(0) % 2 * 255
    return damaged


def mosaic_store(folder: Path) -> DatasetStore:
    """Return a store with the three datasets of mosaics."""
    store = DatasetStore(folder / "datasets")
    images = {
        TRAINED_ON: [mosaic(seed) for seed in range(40)],
        OTHERS: [mosaic(seed) for seed in range(100, 140)],
        FAULTY: [with_fault(mosaic(seed), 20, 24) for seed in range(200, 210)],
    }
    for name, of_dataset in images.items():
        if name in store.names():
            continue
        files = folder / name
        files.mkdir(parents=True, exist_ok=True)
        sources = [Source(files / f"{number:03d}.png", f"{number:03d}.png") for number in range(len(of_dataset))]
        for source, image in zip(sources, of_dataset, strict=True):
            source.path.write_bytes(encode_png(image))
        store.create(name, sources)
    return store


def tiled_artifact(factory: pytest.TempPathFactory) -> tuple[Path, DatasetStore]:
    """Return the artifact of a model of tiles of real digits, fitted by the first process that needs it, and its data.

    Args:
        factory: pytest's ``tmp_path_factory``.
    """
    folder = shared_folder(factory) / "tiled"
    with locked(folder):
        store = mosaic_store(folder)
        config = find_preset("snf-features").config({"fit": "tiles", "image_size": SIDE})
        artifact = train(
            load_dataset(TRAINED_ON, None, store, config),
            "snf-features",
            config,
            folder / "training",
            observe=lambda _event: None,
            should_stop=lambda: False,
            engine=EngineOptions(backbones=backbone_folder(factory)),
        )
    return artifact, store
