"""Hash that identifies a training run by its data, architecture, settings and initial weights.

The checkpoints of a run are found by this hash.
"""

from __future__ import annotations

import hashlib

from safetensors.torch import save

from models.datasets import Dataset
from models.flows.architecture import PixelArchitecture
from models.flows.flow import Flow
from models.training.config import TrainingConfig, earlier_settings


def identity_of(dataset: Dataset, architecture: PixelArchitecture, config: TrainingConfig, start: Flow | None) -> str:
    """Return a hash that identifies a training run by its images, architecture, settings and start weights.

    It is a SHA-256 as a hexadecimal number.

    Args:
        dataset: Its images.
        architecture: The flow over pixels.
        config: The training settings.
        start: Flow whose weights are where the training starts; None for random weights.
    """
    # Checkpoints of versions without these settings still belong to their trainings.
    unchanged = {name for name, value in earlier_settings().items() if getattr(config, name) == value}
    described = f"{architecture.model_dump_json()}{config.model_dump_json(exclude=unchanged)}{dataset.digest}"
    return hashlib.sha256(described.encode() + weights_of(start)).hexdigest()


def weights_of(start: Flow | None) -> bytes:
    """Return the weights of a flow as bytes in the safetensors format.

    The result is empty if ``start`` is None.
    """
    if start is None:
        return b""
    # Learned inverses are stored by columns, which the file format does not have.
    return save({name: value.contiguous() for name, value in start.state_dict().items()})
