"""Which datasets the paper augmented."""

from __future__ import annotations

from dataclasses import replace

from snf_models.training.batches import Batches

AUGMENTED = frozenset({"cifar10"})
"""Datasets whose rows the paper trained with augmentation."""


def batches_of(batches: Batches, dataset: str) -> Batches:
    """Return the batches of a training, augmented where the paper did so for this dataset."""
    return replace(batches, augmentation="crop-flip") if dataset in AUGMENTED else batches
