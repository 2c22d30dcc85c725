from __future__ import annotations

from dataclasses import dataclass

from snf_models.flows.flow import Flow


@dataclass(frozen=True)
class TrainedFlow:
    """A flow with the averaged weights of its best validation, the fewest bits per dimension."""

    flow: Flow  # in evaluation mode on the CPU
    steps: int
    best_step: int  # of the validation whose weights the flow has
    validation_bits_per_dim: float  # there, without suspects
    elapsed_seconds: float  # without interruptions
    validation_seconds: float  # part of it, with previews and checkpoints
    first_validation: float | None  # finite, without suspects; the first report of a training with one validation
    last_validation: float | None  # None where it was the first
    last_training: float | None  # bits/dim of training images, if the last validation is worse than the first
    imported: str | None = None  # source of weights that this project did not train
