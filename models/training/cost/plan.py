"""A training run as it is planned: what its costs are counted from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from models.flows.architecture import Architecture
from models.training.config import INITIALIZATION_IMAGES, TrainingConfig
from models.training.cost.layers import LayerCost, layer_costs


class Splits(Protocol):
    """How many images each part of a dataset has."""

    @property
    def train(self) -> int: ...
    @property
    def statistics(self) -> int: ...
    @property
    def calibration(self) -> int: ...
    @property
    def test(self) -> int: ...


@dataclass(frozen=True)
class Plan:
    """An architecture, the configuration of its training, and the sizes of the dataset's parts."""

    architecture: Architecture
    config: TrainingConfig
    splits: Splits

    @cached_property
    def layers(self) -> list[LayerCost]:
        """The layers of the flow, in the order of the forward direction."""
        return list(layer_costs(self.architecture))

    @property
    def dimensions(self) -> int:
        """D = C·H·W."""
        return math.prod(self.architecture.image_shape)

    @property
    def parameters(self) -> int:
        """Learned numbers of the flow."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass of one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def batch(self) -> int:
        """Images a step."""
        return min(self.config.batch_size, self.splits.train)

    @property
    def first_images(self) -> int:
        """Images that initialise the flow."""
        return min(INITIALIZATION_IMAGES, self.splits.train)

    @property
    def held_out_images(self) -> int:
        """Images that are scored at the end."""
        return self.splits.statistics + self.splits.calibration + self.splits.test

    @property
    def precision(self) -> str:
        """Arithmetic of the coupling nets; on the reference machine ``auto`` is bfloat16."""
        return "float32" if self.config.precision == "float32" else "bfloat16"
