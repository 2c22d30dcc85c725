"""Estimates of a training's time and memory. Operations are counted in a thread, in less than a second, or guessed."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from functools import cache
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Literal

from models.datasets import DatasetSummary
from models.flows.architecture import Architecture, GlowArchitecture, HybridArchitecture
from models.training.config import TrainingConfig
from models.training.cost.throughput import ASSUMED, Throughput, stored_throughput
from worker.jobs.duration_model import DurationModel
from worker.queues import DeviceKind
from worker.runtime.throughput import throughput_file
from worker.settings import Settings

if TYPE_CHECKING:
    from models.training.cost.estimate import TrainingEstimate

log = logging.getLogger(__name__)

Basis = Literal["earlier jobs", "measured", "assumed", "guessed"]

MAX_COUNTS = 4
"""Most counts that wait or run. Beyond them an answer is a guess, so that they never take longer than a few seconds."""
WAIT_S = 0.7
"""Longest wait for a count; an answer takes a second at most."""
GUESSED_STEP_SECONDS = 2e-6
"""Time that a step takes for each value of a batch; the small presets do on the reference machine."""
GUESSED_IMAGE_SECONDS, GUESSED_FEATURE_BYTES = 0.02, 2_000_000_000
"""Time that an image takes in a fit over features, and memory of such a fit."""
GUESSED_BYTES = 500_000_000, 2_000, 16 / 3
"""Memory of any training, of a batch's value, and of a Glow's by step and channel: 1.2 to 4 times the count."""


@dataclass(frozen=True)
class JobEstimate:
    """Expected time and memory of a training job."""

    seconds: float  # from the start to the registered model
    memory_bytes: int  # peak of the process
    parameters: int  # learned numbers; 0 if not counted in time
    slowdown: float  # ``seconds`` over those of the reference machine
    basis: Basis  # source of ``seconds``


def estimate_job(
    preset: str,
    architecture: Architecture,
    config: TrainingConfig,
    dataset: DatasetSummary,
    device: DeviceKind,
    settings: Settings,
    durations: DurationModel,
) -> JobEstimate:
    """Estimate a training on the reference machine, corrected by earlier jobs or the measured speed if known."""
    slowdown = durations.slowdown(device, preset)
    throughputs = {kind: stored_throughput(throughput_file(settings, kind)) for kind in ("cpu", device)}
    try:
        counted = _count(architecture, config, dataset, device, throughputs[device], throughputs["cpu"], slowdown)
        reference, estimate = counted.result(timeout=WAIT_S)
    except NotInTime:
        return _guess(architecture, config, dataset, 1.0 if slowdown is None else slowdown)
    except Exception:
        # A training is worth more than its estimate, which fails where a layer does not run without data.
        log.exception("the work of %s is not counted; its estimate is a guess", preset)
        return _guess(architecture, config, dataset, 1.0 if slowdown is None else slowdown)
    basis: Basis = "earlier jobs" if slowdown is not None else "measured" if throughputs[device] else "assumed"
    factor = estimate.seconds / reference.seconds
    return JobEstimate(estimate.seconds, estimate.memory_bytes, estimate.parameters, factor, basis)


@cache
def _counting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="estimates")


@cache
def _free_counts() -> BoundedSemaphore:
    return BoundedSemaphore(MAX_COUNTS)


def _count(
    architecture: Architecture,
    config: TrainingConfig,
    dataset: DatasetSummary,
    device: DeviceKind,
    measured: Throughput | None,
    host: Throughput | None,
    slowdown: float | None,
) -> Future[tuple[TrainingEstimate, TrainingEstimate]]:
    """Count in a thread, for the reference machine and this installation; raise ``NotInTime`` if too many wait."""

    def run() -> tuple[TrainingEstimate, TrainingEstimate]:
        from models.training.cost.estimate import estimate_training  # noqa: PLC0415  # loads PyTorch

        reference = estimate_training(architecture, config, dataset, device=device)
        if slowdown is not None:
            return reference, estimate_training(architecture, config, dataset, device=device, slowdown=slowdown)
        throughput = measured or ASSUMED
        return reference, estimate_training(
            architecture, config, dataset, throughput, device=device, host=host or ASSUMED
        )

    if not _free_counts().acquire(blocking=False):
        raise NotInTime
    counted = _counting().submit(run)
    counted.add_done_callback(lambda _counted: _free_counts().release())
    return counted


def _guess(architecture: Architecture, config: TrainingConfig, dataset: DatasetSummary, slowdown: float) -> JobEstimate:
    """Guess the time and the memory of a training from the sizes of its images and batches alone."""
    if architecture.kind == "feature_density":
        images = dataset.train + dataset.statistics + dataset.calibration + dataset.test
        seconds = ASSUMED.start_seconds + images * GUESSED_IMAGE_SECONDS
        return JobEstimate(slowdown * seconds, GUESSED_FEATURE_BYTES, 0, slowdown, "guessed")
    values = min(config.batch_size, dataset.train) * math.prod(dataset.image_shape)
    seconds = slowdown * (ASSUMED.start_seconds + config.max_steps * values * GUESSED_STEP_SECONDS)
    if config.max_minutes is not None:
        seconds = min(seconds, 60 * config.max_minutes)
    fixed, each, of_step = GUESSED_BYTES
    pixels = architecture.pixels if isinstance(architecture, HybridArchitecture) else architecture
    if isinstance(pixels, GlowArchitecture):
        each += round(of_step * pixels.steps * pixels.hidden / pixels.channels)
    return JobEstimate(seconds, fixed + each * values, 0, slowdown, "guessed")
