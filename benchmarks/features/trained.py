"""A feature model that the whole product trained, as ``snf train`` does it in its process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.features.cells import CellSplit
from benchmarks.features.common import FeatureRun
from benchmarks.features.fitted import PRESET
from snf_models.datasets.dataset import Dataset, digest_of
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import Scorer, load_model
from snf_runtime.images.preprocessing import Pixels


def trained_on_split(run: FeatureRun, split: CellSplit) -> tuple[Scorer, Path]:
    """Return the scorer of a feature model of a split of solar cells, and the path of its artifact."""
    digest = digest_of(split.train, split.statistics, split.calibration)
    dataset = Dataset("elpv", split.train, split.statistics, split.calibration, split.test, digest)
    return trained_on(run, dataset)


def trained_scorer(run: FeatureRun, name: str, images: Pixels) -> Scorer:
    """Return the scorer of a feature model that is trained on four fifths of some images and calibrated on the rest."""
    parts = np.split(images, [len(images) * 8 // 10, len(images) * 9 // 10])
    return trained_on(run, Dataset(name, *parts, images[:0], digest_of(*parts)))[0]


def trained_on(run: FeatureRun, dataset: Dataset) -> tuple[Scorer, Path]:
    """Train a feature model, or find the one that an earlier run has trained on the same images.

    Returns:
        Its scorer, and the path of its artifact.
    """
    folder = run.folder / "trained" / f"{dataset.name}-{dataset.digest[:12]}-{run.key}"
    path = train(
        dataset,
        PRESET,
        find_preset(PRESET).config({}),
        folder,
        observe=lambda _event: None,
        should_stop=lambda: False,
        threads=run.threads,
        engine=run.options,
    )
    return load_model(path, options=run.options), path
