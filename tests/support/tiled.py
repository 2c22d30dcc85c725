"""Mosaics of real digits in many sizes, and a model that scores them tile by tile."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.datasets import DatasetStore, Source, load_dataset
from snf_models.disk import locked
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scoring import EngineOptions
from snf_runtime.images.batch import stacked
from snf_runtime.images.codec import encode_png
from tests.support.backbones import backbone_folder
from tests.support.paths import shared_folder

SIDE = 64
"""Side of a tile: features at 4x4 places, so that a fit takes seconds."""
STRIDE = 16
"""Distance of the places that features are of, in pixels."""
DIGIT = 28
TRAINED_ON, OTHERS, FAULTY = "mosaics", "more-mosaics", "faulty-mosaics"
"""Datasets of mosaics: to train on, to calibrate and evaluate on, and with a fault."""


@cache
def _digits() -> NDArray[np.uint8]:
    return stacked(load_dataset("mnist-mini", None).train)[:, 0]


def mosaic(seed: int, rows: int | None = None, columns: int | None = None) -> NDArray[np.uint8]:
    """Return a mosaic of real digits at random places, uint8 ``(1, H, W)``."""
    digits = _digits()
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
    """Return the artifact of a model of tiles of real digits and its data, fitted by the first process that asks."""
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


def add_masks(store: DatasetStore, folder: Path) -> None:
    """Add a dataset of the masks of the faulty mosaics, which differ in pixels that are no defect, too."""
    sources = [Source(folder / f"{number:03d}_mask.png", f"{number:03d}_mask.png") for number in range(10)]
    for number, source in enumerate(sources):
        mask = np.zeros_like(mosaic(200 + number))
        mask[:, 20:36, 24:40] = 255
        mask[0, 0, number] = 100
        source.path.write_bytes(encode_png(mask))
    store.create("masks", sources)


def tiles_of(image: NDArray[np.uint8]) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """Return the tiles of an image by their origins, cut from a mirrored copy: an own computation."""
    extended = np.pad(image, ((0, 0), (0, SIDE), (0, SIDE)), mode="symmetric")
    extended = np.pad(extended, ((0, 0), (0, SIDE), (0, SIDE)), mode="symmetric")

    def origins(length: int) -> list[int]:
        free = max(0, math.ceil(length / STRIDE) - SIDE // STRIDE)
        moves = math.ceil(free / 3)
        return [0, *(STRIDE * (move * free // moves) for move in range(1, moves + 1))]

    _, height, width = image.shape
    places = [(top, left) for top in origins(height) for left in origins(width)]
    return {(top, left): extended[:, top : top + SIDE, left : left + SIDE] for top, left in places}
