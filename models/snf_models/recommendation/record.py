"""Settings and result of a comparison of families. Free of torch."""

from __future__ import annotations

from typing import get_args

from snf_client.schemas.recommendations import FamilyName
from snf_models.errors import DatasetUnfit

FAMILIES: tuple[FamilyName, ...] = get_args(FamilyName)
"""The families, the cheapest first: features are fitted in closed form, pixels are trained, a hybrid takes both."""
PRESET_OF: dict[FamilyName, str] = {"features": "snf-features", "pixels": "snf-glow-small", "hybrid": "snf-hybrid"}
MIN_TRAIN = 100
"""Fewest images of the train part that can be divided."""


def check_train_images(name: str, train: int) -> None:
    """Raise ``DatasetUnfit`` for fewer than 100 training images."""
    if train < MIN_TRAIN:
        raise DatasetUnfit(
            f"a comparison of families divides the training images, expected at least {MIN_TRAIN} of them, "
            f"{name} has {train}: upload more images, or train snf-features, which suits few images"
        )
