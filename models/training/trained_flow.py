"""Result of training a flow over pixels: the flow with the weights of its best validation."""

from __future__ import annotations

from dataclasses import dataclass

from models.flows.flow import Flow


@dataclass(frozen=True)
class TrainedFlow:
    """A trained flow with the weights that gave the best validation result of its training.

    The weights are a moving average. The best validation has the fewest bits per dimension.

    Attributes:
        flow: The flow, in evaluation mode on the CPU.
        steps: Optimiser steps taken.
        best_step: Step of the validation whose weights the flow has.
        validation_bits_per_dim: Bits per dimension at that validation, without suspects.
        elapsed_seconds: Duration of the training, without interruptions.
        validation_seconds: The part of it that validations took, with previews and checkpoints.
        first_validation: Bits per dimension of the first finite validation, without suspects; of the first report
            where a short training has one validation.
        last_validation: The same of the last validation; None if it was the first one, in a training of few steps.
        last_training: Bits per dimension of training images at the end, where the last validation is worse than the
            first.
        imported: Where the weights come from, if no training of this project made them.
    """

    flow: Flow
    steps: int
    best_step: int
    validation_bits_per_dim: float
    elapsed_seconds: float
    validation_seconds: float
    first_validation: float | None
    last_validation: float | None
    last_training: float | None
    imported: str | None = None
