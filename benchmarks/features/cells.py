"""Solar cells: their splits, their features, and flows over their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.features.common import FeatureRun
from benchmarks.features.lookup import FeatureTable
from snf_client.schemas.training import TrainingConfig
from snf_models.datasets.dataset import Dataset, digest_of
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.flow import Flow
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.open_density import open_extractor
from snf_runtime.images.preprocessing import Pixels

SIZES = (1000, 150, 150)
"""Functional cells to train, to fit statistics to, and to rank images among; the rest are tested."""
PIXEL_PRESET = "snf-glow-small"


@dataclass(frozen=True)
class CellSplit:
    """A random split of the functional cells, uint8 ``(N, 1, 64, 64)`` each."""

    seed: int
    train: Pixels
    statistics: Pixels
    calibration: Pixels
    test: Pixels


@dataclass(frozen=True)
class SolarCells:
    """All solar cells, and their features."""

    normal: Pixels
    defective: Pixels
    table: FeatureTable

    @classmethod
    def load(cls, run: FeatureRun) -> SolarCells:
        """Read the cells and extract their features, once for all runs."""
        return cls.of(run, *cells(run.data_dir / "elpv64.npz"), "elpv")

    @classmethod
    def of(cls, run: FeatureRun, normal: Pixels, defective: Pixels, name: str) -> SolarCells:
        """Extract the features of good and defective images, once for all runs."""
        images = np.concatenate([normal, defective])
        backbone = run.backbone
        _, channels, height, width = images.shape
        size = backbone.input_size(height, width)
        extractor = open_extractor(run.store, backbone, (channels, height, width), size, run.options)
        engine = type(extractor).__name__
        path = run.folder / f"{name}-{size[0]}-{engine}-{run.key}.npy"
        return cls(normal, defective, FeatureTable.extract(images, extractor, path))

    def split(self, seed: int) -> CellSplit:
        """Return the split of the README of the data, by the permutation of a seed."""
        order = np.random.default_rng(seed).permutation(len(self.normal))
        return CellSplit(seed, *(self.normal[rows] for rows in np.split(order, np.cumsum(SIZES))))


def cells(path: Path) -> tuple[Pixels, Pixels]:
    """Return functional and defective cells, ``(N, 1, 64, 64)``."""
    with np.load(path, allow_pickle=False) as arrays:
        images = next(arrays[name] for name in arrays.files if arrays[name].ndim == 3)[:, None]
        probability = arrays["defect_probability"]
    return images[probability == 0], images[probability == 1]


def pixel_flow(run: FeatureRun, split: CellSplit, minutes: float) -> tuple[Flow, GlowArchitecture]:
    """Return a flow over pixels with its architecture.

    An earlier run is gone on with.

    Args:
        run: The settings.
        split: The split.
        minutes: Duration of the training.
    """
    flips = [slice(None), slice(None, None, -1)]
    mirrored = np.concatenate([split.train[:, :, rows, columns] for rows in flips for columns in flips])
    nothing = mirrored[:0]
    digest = digest_of(mirrored, split.statistics)
    dataset = Dataset("elpv", mirrored, split.statistics, nothing, nothing, digest)
    config = TrainingConfig(max_minutes=minutes, max_steps=run.some(1500, 5), batch_size=32)
    architecture = find_preset(PIXEL_PRESET).architecture(dataset.image_shape, config.pixel_transform)
    assert isinstance(architecture, GlowArchitecture)
    folder = run.folder / "pixels" / f"{split.seed}-{minutes:g}"
    trainer = Trainer(dataset, architecture, config, folder, lambda _event: None)
    return trainer.run(lambda: False).flow.eval(), architecture
