"""What a training run will take, before it is queued: time and memory. Free of torch."""

from __future__ import annotations

from pydantic import BaseModel

from models.flows.architecture import Architecture
from models.training.config import TrainingConfig
from models.training.cost.memory import peak_bytes
from models.training.cost.plan import Plan, Splits
from models.training.cost.time import PARTS, seconds_of

REPORT_SECONDS = 0.5


class TrainingEstimate(BaseModel, frozen=True):
    """What a training run is expected to take.

    ``parameters``: learned numbers, exactly. ``multiply_adds``: of the forward pass of one image through convolutions
    and matrices, exactly. ``memory_bytes``: peak resident memory of the process. ``seconds``: wall time from the start
    of the process to the written model.
    """

    parameters: int
    multiply_adds: int
    memory_bytes: int
    seconds: float


def estimate_training(
    architecture: Architecture,
    image_shape: tuple[int, int, int],
    config: TrainingConfig,
    splits: Splits,
    *,
    slowness: float = 1.0,
) -> TrainingEstimate:
    """Estimate a run of ``train`` on images ``(C, H, W)``. Raises ``ValueError`` where they are not the architecture's.

    ``splits``: the sizes of the dataset's parts. ``slowness``: how many times longer than the reference machine this
    one takes, measured over expected time of runs before. ``config.max_minutes`` caps the steps with their
    validations, not what comes before and after. On the CPU: a CUDA device is another machine, with a slowness below 1.
    """
    if tuple(image_shape) != architecture.image_shape:
        raise ValueError(f"expected images {architecture.image_shape} of the architecture, got {tuple(image_shape)}")
    plan = Plan(architecture, config, splits)
    seconds = {name: slowness * seconds_of(part(plan)) for name, part in PARTS.items()}
    # A report follows every step that is slow, and of quick ones two a second.
    reported = 1 + seconds["report"] / max(seconds["step"], REPORT_SECONDS)
    training = config.max_steps * seconds["step"] * reported
    training += config.validation_count * (seconds["validation"] + seconds["checkpoint"] + seconds["preview"])
    training *= 1 + seconds["checkpoint"] / config.checkpoint_seconds
    if config.max_minutes is not None:
        training = min(training, 60 * config.max_minutes)
    return TrainingEstimate(
        parameters=plan.parameters,
        multiply_adds=plan.multiply_adds,
        memory_bytes=peak_bytes(plan),
        seconds=seconds["start"] + training + seconds["evaluation"],
    )
