"""Digest of a run's data, architecture, settings and initial weights, by which its checkpoints are found."""

from __future__ import annotations

import hashlib

from safetensors.torch import save

from snf_models.datasets import Dataset
from snf_models.flows.architecture import PixelArchitecture
from snf_models.flows.flow import Flow
from snf_models.training.config import TrainingConfig, earlier_settings


def identity_of(dataset: Dataset, architecture: PixelArchitecture, config: TrainingConfig, start: Flow | None) -> str:
    """Return a SHA-256 in hexadecimal; ``start`` is None for random weights."""
    # Checkpoints of versions without these settings still belong to their trainings.
    unchanged = {name for name, value in earlier_settings().items() if getattr(config, name) == value}
    described = f"{architecture.model_dump_json()}{config.model_dump_json(exclude=unchanged)}{dataset.digest}"
    return hashlib.sha256(described.encode() + weights_of(start)).hexdigest()


def weights_of(start: Flow | None) -> bytes:
    """Return weights as safetensors, empty for None."""
    if start is None:
        return b""
    # Learned inverses are stored by columns, which the file format does not have.
    return save({name: value.contiguous() for name, value in start.state_dict().items()})
