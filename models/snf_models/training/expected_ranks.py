"""Smallest false-alarm rate that a training will attain, which follows from the number of its images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from snf_models.datasets import DatasetSummary
from snf_models.datasets.dataset import held_out_sizes
from snf_models.flows.architecture import Architecture, FeatureArchitecture
from snf_models.training.config import TrainingConfig
from snf_runtime.anomaly.conformal import DEFAULT_ALPHA, smallest_p


@dataclass(frozen=True)
class ExpectedRanks:
    images: int  # that give ranks; copies of an image may count once
    images_for_default: int  # uploaded good images from which on a rate of 1 % is attainable

    @classmethod
    def of(cls, architecture: Architecture, config: TrainingConfig, splits: DatasetSummary) -> ExpectedRanks:
        ranked = round(1 / DEFAULT_ALPHA) - 1
        if isinstance(architecture, FeatureArchitecture) and whole_folds(config, splits):
            return cls(splits.train + splits.statistics + splits.calibration, ranked)
        held_out = next(total for total in count(1) if (held_out_sizes(total)[1] or held_out_sizes(total)[0]) >= ranked)
        return cls(splits.statistics if splits.folds else splits.calibration, held_out)

    @property
    def smallest_alpha(self) -> float:
        return smallest_p(self.images)

    @property
    def sentence(self) -> str:
        attainable = f"p-values are ranks among {self.images} images: the smallest attainable alpha is "
        needed = f"{DEFAULT_ALPHA:g} takes {self.images_for_default} good images of this kind of model"
        return f"{attainable}{self.smallest_alpha:.2g}; {needed}"


def whole_folds(config: TrainingConfig, splits: DatasetSummary) -> int:
    """Return in how many folds the whole fit is repeated; 0 for Glow steps, unless images are too few for them."""
    return 0 if config.feature_steps and not splits.folds else splits.whole_folds
