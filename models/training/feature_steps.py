"""Training of optional Glow steps in a flow over features, and their test on held-out images.

The steps come after the local affine layer of the flow.
"""

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

from models.bijections.base import Bijection
from models.bijections.local_affine import ExactLocalAffine
from models.bijections.pixels import AffinePixels
from models.errors import TrainingDiverged
from models.features.flows import build_steps
from models.flows.architecture import FeatureArchitecture
from models.flows.flow import Flow, Level, standard_normal_log_prob
from models.training.config import TrainingConfig
from models.training.divergence import name_the_cause
from models.training.objective import SelfNormalizingObjective

MAX_IMAGES = 4000
MAX_BYTES = 2**30
"""The largest number of images or tiles whose features are stored, and the most disk space that they take."""
BATCH = 32
"""Images an optimiser step."""


@dataclass(frozen=True)
class StepsPlan:
    """Settings for training the optional Glow steps (blocks of layers) of a flow over image features.

    Attributes:
        steps: Number of steps.
        updates: Optimiser steps that train them.
        seed: Seed of the weights and of the order of the images.
        folder: Folder for a temporary file with features.
    """

    steps: int
    updates: int
    seed: int
    folder: Path


@dataclass(frozen=True)
class StepsOutcome:
    """Trained Glow steps (added blocks of flow layers), with the gain in likelihood that they bring.

    The steps are for flows over features, and the gain is measured on held-out images.

    Attributes:
        architecture: The architecture with the steps.
        steps: The bijections of the steps, in evaluation mode.
        updates: Optimiser steps that trained them.
        gains: By how much the steps raise the log-likelihood of each held-out image, float64 ``(n,)`` in nats. Of an
            image of several tiles this is the mean over those that the trial stores.
    """

    architecture: FeatureArchitecture
    steps: tuple[Bijection, ...]
    updates: int
    gains: NDArray[np.float64]

    @property
    def gain(self) -> float:
        """Mean increase of the log-likelihood of held-out images, in nats, from adding the new layers.

        The new layers are the trained Glow steps.
        """
        return float(self.gains.mean())

    @property
    def standard_error(self) -> float:
        """The standard error, in nats, of the mean gain in held-out log-likelihood from the added Glow steps."""
        return float(self.gains.std(ddof=1) / math.sqrt(len(self.gains)))

    @property
    def kept(self) -> bool:
        """Whether the Glow steps (added layers) gain enough held-out likelihood to become part of the model.

        They do if the gain exceeds its standard error.
        """
        return self.gain > self.standard_error

    def summary(self) -> str:
        """Return a sentence on the Glow steps (added flow layers): their gain in nats, and whether they are kept.

        The gain is the mean rise of held-out log-likelihoods, which is given with its standard error.
        """
        return (
            f"{self.architecture.steps} Glow steps over features: held-out images became likelier by {self.gain:.1f} "
            f"nats (standard error {self.standard_error:.1f}), so the steps are {'kept' if self.kept else 'left out'}"
        )


class StepsTrial:
    """Trial that trains Glow steps (added layers) for a flow over features, and tests them on held-out images.

    The features of at most 4,000 images or tiles, evenly spaced, are written to a temporary file. The steps are trained
    on the images of all folds but the last one, which is held out.

    Args:
        plan: Settings of the training.
        architecture: The architecture of the features.
        folds: The fold of every image, ``(n,)``.
        owners: The number of the image of every sample, which is the image or a tile of it, ``(samples,)``.
    """

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
        """Add a batch of features to the temporary file on which Glow steps are later trained and tested.

        Only the evenly spaced images or tiles that the trial uses are written.

        Args:
            start: The number of the first image of the batch.
            features: Features at places, float32 ``(n, C, rows, columns)``.
        """
        self._file.write(features[-start % self._every :: self._every].tobytes())

    def run(self, layer: ExactLocalAffine, report: Callable[[int, int], None]) -> StepsOutcome:
        """Train additional Glow steps for flows over features, and measure their gain on held-out images.

        Glow steps are blocks of flow layers.

        The steps are trained on features that ``layer`` has whitened. The gain is how much they raise the
        log-likelihood.

        Args:
            layer: The local affine layer, fitted to all folds but the last one.
            report: Called after every optimiser step, with the steps done and all steps.

        Raises:
            TrainingDiverged: Loss or gradient is not finite.
        """
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
        """Train the steps of a flow and bring it to evaluation mode.

        Args:
            flow: The flow, whose pixel transform is not used.
            rows: The numbers of the stored images to train on, ``(n,)``.
            whitened: Function from such numbers to the features of these images after the layer.
            report: Called after every optimiser step, with the steps done and all steps.
        """
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
    """Return how much larger the log-density of each sample is under a flow than under a standard normal, ``(N,)``."""
    gains = flow.forward_pixels(z, z.new_zeros(len(z))).log_likelihood - standard_normal_log_prob(z)
    result: NDArray[np.float64] = gains.double().numpy()
    return result
