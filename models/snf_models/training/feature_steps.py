"""Training of optional Glow steps of a flow over features, and their test on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.bijections.base import Bijection
from snf_models.bijections.local_affine import ExactLocalAffine
from snf_models.bijections.pixels import AffinePixels
from snf_models.errors import TrainingDiverged
from snf_models.features.flows import build_steps
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.flows.flow import Flow, Level, standard_normal_log_prob
from snf_models.training.config import TrainingConfig
from snf_models.training.divergence import name_the_cause
from snf_models.training.objective import SelfNormalizingObjective

MAX_IMAGES = 4000
MAX_BYTES = 2**30
"""The largest number of images or tiles whose features are stored, and the most disk space that they take."""
BATCH = 32
"""Images an optimiser step."""


@dataclass(frozen=True)
class StepsPlan:
    steps: int  # number of Glow steps
    updates: int  # optimiser steps
    seed: int
    folder: Path  # for a temporary file with features


@dataclass(frozen=True)
class StepsOutcome:
    """Trained Glow steps with their gain on held-out images."""

    architecture: FeatureArchitecture  # with the steps
    steps: tuple[Bijection, ...]
    updates: int
    gains: NDArray[np.float64]  # of each held-out image in nats, ``(n,)``; of several tiles the mean of those stored

    @property
    def gain(self) -> float:
        """Mean gain in nats."""
        return float(self.gains.mean())

    @property
    def standard_error(self) -> float:
        """In nats."""
        return float(self.gains.std(ddof=1) / math.sqrt(len(self.gains)))

    @property
    def kept(self) -> bool:
        """Whether the gain exceeds its standard error."""
        return self.gain > self.standard_error

    def summary(self) -> str:
        return (
            f"{self.architecture.steps} Glow steps over features: held-out images became likelier by {self.gain:.1f} "
            f"nats (standard error {self.standard_error:.1f}), so the steps are {'kept' if self.kept else 'left out'}"
        )


class StepsTrial:
    """Trial of Glow steps on at most 4,000 samples in a temporary file. The last fold is held out."""

    def __init__(
        self,
        plan: StepsPlan,
        architecture: FeatureArchitecture,
        folds: NDArray[np.integer],
        owners: NDArray[np.intp],
    ) -> None:
        self._plan = plan
        self._architecture = architecture.model_copy(update={"steps": plan.steps})
        size = 4 * math.prod(architecture.feature_shape)
        self._every = math.ceil(len(owners) / max(1, min(MAX_IMAGES, MAX_BYTES // size)))
        self._owners = owners[:: self._every]
        self._held_out = folds[self._owners] == folds.max()
        # It has no name, so that nothing of it is left whatever ends the process.
        self._file = TemporaryFile(dir=plan.folder)  # noqa: SIM115 - read after the last features are added

    def add(self, start: int, features: NDArray[np.float32]) -> None:
        """Store the chosen samples of a batch of features, ``(n, C, rows, columns)``, from image ``start`` on."""
        self._file.write(features[-start % self._every :: self._every].tobytes())

    def run(self, layer: ExactLocalAffine, report: Callable[[int, int], None]) -> StepsOutcome:
        """Train on features after ``layer``, fitted to all folds but the last; raise ``TrainingDiverged``."""
        self._file.flush()
        shape = len(self._held_out), *self._architecture.feature_shape
        features = np.memmap(self._file, np.float32, "r", shape=shape)
        numbers = np.arange(len(features))
        learned, held_out = numbers[~self._held_out], numbers[self._held_out]

        @torch.no_grad()
        def whitened(rows: NDArray[np.intp]) -> Tensor:
            return layer.apply_weight(torch.from_numpy(np.asarray(features[rows])) - layer.mean)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._plan.seed)
            flow = Flow(AffinePixels(), [Level(build_steps(self._architecture), squeeze=False)])
        self._train(flow, learned, whitened, report)
        batches = np.array_split(held_out, math.ceil(len(held_out) / BATCH))
        of_samples = np.concatenate([_gains(flow, whitened(rows)) for rows in batches])
        # Tiles of an image are alike: counted as images, they would make the standard error too small.
        _, owners = np.unique(self._owners[self._held_out], return_inverse=True)
        gains = np.bincount(owners, of_samples) / np.bincount(owners)
        steps = tuple(flow.level_list()[0].bijections())
        return StepsOutcome(self._architecture, steps, self._plan.updates, gains)

    def _train(
        self,
        flow: Flow,
        rows: NDArray[np.intp],
        whitened: Callable[[NDArray[np.intp]], Tensor],
        report: Callable[[int, int], None],
    ) -> None:
        """Train a flow, without its pixel transform, on the stored samples ``rows``."""
        flow.train()
        updates = self._plan.updates
        config = TrainingConfig(max_steps=updates, warmup_steps=updates // 10, seed=self._plan.seed)
        objective = SelfNormalizingObjective(flow, self._architecture.feature_shape, config)
        optimizer = torch.optim.Adam(flow.parameters(), fused=True)
        generator = np.random.default_rng(self._plan.seed)
        for update in range(updates):
            x = whitened(generator.choice(rows, min(BATCH, len(rows)), replace=False))
            loss = objective.loss(flow, x, x.new_zeros(len(x)), update)
            optimizer.zero_grad()
            torch.autograd.backward(loss.value)
            norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), config.gradient_clip)
            if not (loss.value.isfinite() and norm.isfinite()):
                raise TrainingDiverged(f"Glow steps over features, update {update}: {name_the_cause(flow, x)}")
            optimizer.param_groups[0]["lr"] = config.learning_rate_at(update, update / updates)
            optimizer.step()
            objective.update(loss, update)
            report(update + 1, updates)
        flow.eval()


@torch.no_grad()
def _gains(flow: Flow, z: Tensor) -> NDArray[np.float64]:
    """Return how much larger each log-density is under a flow than under a standard normal, ``(N,)``."""
    gains = flow.forward_pixels(z, z.new_zeros(len(z))).log_likelihood - standard_normal_log_prob(z)
    result: NDArray[np.float64] = gains.double().numpy()
    return result
