"""One training: a row by a recipe with a seed, in turns, with its learning curve, its test and its record."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from benchmarks.paper.angles import angles, exact_twin
from benchmarks.paper.plateau import plateau_of
from benchmarks.paper.recipes import Recipe, architecture_of, config_of, dataset_of
from benchmarks.paper.rows import Group, Row
from snf_models.datasets import Dataset
from snf_models.disk import write_atomically
from snf_models.errors import Interrupted, TrainingDiverged
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.run import RunRecord, claim_folder
from snf_models.scoring.frozen import freeze
from snf_models.scoring.torch_engine import TorchEngine
from snf_models.training.batches import Batches
from snf_models.training.objective import inverse_errors
from snf_runtime.images.batch import stacked
from snf_runtime.scoring.evidence import run_flow

CURVE, BEST, TEST, DIVERGED = "curve.json", "best.safetensors", "test.npz", "diverged.txt"
CHUNK = 100
AUGMENTED = frozenset({"cifar10"})
"""Datasets whose rows the paper trained with augmentation."""
Array = NDArray[np.float64]


class Stopped(Exception):
    """Raised when a training was asked to stop. It goes on from there when it is started again."""


@dataclass(frozen=True)
class Point:
    """A point of a learning curve.

    ``nats`` is the mean negative log-likelihood of validation images, exact, with the averaged weights. ``angles`` are
    the degrees between gradient and exact gradient, ``inverse_errors`` ||I - R W||_F / sqrt(D), by self normalizing
    layer, ``multipliers`` the weights of their relative reconstruction errors in the loss, in nats a dimension. Angles
    and multipliers are empty where a process ended between the last checkpoint and its point.
    """

    step: int
    seconds: float  # without measurements
    nats: float
    angles: list[float]
    inverse_errors: list[float]
    multipliers: list[float]


class Run:
    """A training of one row with one seed in a work folder, which goes on where an earlier process left it.

    ``changes`` are settings of a smaller training, for tests. Raises ``FolderTaken`` where the work folder holds a
    training with other settings.
    """

    def __init__(
        self,
        group: Group,
        row: Row,
        recipe: Recipe,
        seed: int,
        steps: int,
        work: Path,
        device: str = "cpu",
        test_images: int | None = None,
        **changes: Any,
    ) -> None:
        self.group, self.row, self.recipe, self.seed, self.steps = group, row, recipe, seed, steps
        self.device, self.test_images = device, test_images or group.test_images
        self.folder = work / f"{row.name}-{seed}"
        self.config = config_of(group, row, recipe, steps, seed, **changes)
        self.architecture = architecture_of(row, self.dataset.image_shape, self.config)
        owner = RunRecord.of(row.preset, (self.dataset.name, self.dataset.digest), self.config, self.architecture)
        claim_folder(self.folder, owner)
        path = self.folder / CURVE
        self.curve = [Point(**point) for point in json.loads(path.read_text())] if path.is_file() else []

    @property
    def dataset(self) -> Dataset:
        return dataset_of(self.group.dataset)

    @property
    def step(self) -> int:
        """Steps up to the last point of the curve."""
        return self.curve[-1].step if self.curve else 0

    @property
    def best_step(self) -> int | None:
        """Steps up to the best validation; None before the first one."""
        best = min(self.curve, key=lambda point: point.nats, default=None)
        return None if best is None else best.step

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.dataset.train) // self.config.batch_size)

    @property
    def diverged(self) -> str | None:
        """Why the training diverged, if it did."""
        path = self.folder / DIVERGED
        return path.read_text() if path.is_file() else None

    def advance(self, target: int, note: Callable[[int], None], should_stop: Callable[[], bool]) -> None:
        """Train up to a step and add a point to the curve; do nothing where this is done or the training diverged.

        ``note`` is called with the number of steps after each of them. Raises ``Stopped`` where ``should_stop`` is.
        """
        if target <= self.step or self.diverged is not None:
            return
        trainer = Trainer(self.dataset, self.architecture, self.config, self.folder, lambda _event: None, self.device)
        trainer.batches = batches_of(trainer.batches, self.dataset.name)
        # The checkpoint of a finished training has its averaged weights alone: an earlier process ended after it.
        complete = not trainer.state.finished

        def stop() -> bool:
            note(trainer.state.step)
            return trainer.state.step >= target or should_stop()

        try:
            if trainer.state.step < target:
                trainer.take_steps(stop)
        except Interrupted as interruption:
            if trainer.state.step < target:
                raise Stopped(str(interruption)) from interruption
        except TrainingDiverged as error:
            write_atomically(self.folder / DIVERGED, f"{error}".encode())
            return
        self._measure(trainer, complete=complete)

    def _measure(self, trainer: Trainer, *, complete: bool) -> None:
        shape, state = self.dataset.image_shape, trainer.state
        images = stacked(self.dataset.statistics[: self.group.validation_images])
        nats = float(frozen_nats(trainer.averaged, images, self.device).mean())
        best = min((point.nats for point in self.curve), default=math.inf)
        if nats < best:
            tensors = {name: value.contiguous() for name, value in trainer.averaged.state_dict().items()}
            write_atomically(self.folder / BEST, save(tensors))
        learned = inverse_errors(trainer.averaged, shape)
        degrees: list[float] = []
        if complete and learned and self.group.angle_images:
            x = trainer.batches.batch(state.step)[: self.group.angle_images]
            degrees = angles(trainer.flow, self._twin, x)
        multipliers = trainer.objective.multiplier.values().tolist() if complete and learned else []
        if self.config.multiplier == "mdmm":
            # Its weights are those of errors in units of the target.
            multipliers = [value / self.config.reconstruction_target for value in multipliers]
        seconds = state.elapsed_seconds - state.validation_seconds
        self.curve.append(Point(state.step, seconds, nats, degrees, list(learned.values()), multipliers))
        document = json.dumps([asdict(point) for point in self.curve], indent=1)
        write_atomically(self.folder / CURVE, document.encode())

    @cached_property
    def _twin(self) -> Flow:
        return exact_twin(self.architecture)

    def test(self) -> Array:
        """Return the negative log-likelihood of each test image in float64, with the weights of the best validation.

        They are computed once and kept in the work folder.
        """
        images = stacked(self.dataset.test[: self.test_images])
        kept = self._tested()
        if kept is not None and len(kept) == len(images):
            return kept
        found = float64_nats(self.flow_of_best(), images, self.device)
        content = io.BytesIO()
        np.savez(content, nats=found, step=self.step)
        write_atomically(self.folder / TEST, content.getvalue())
        return found

    def flow_of_best(self) -> Flow:
        """Return the flow with the weights of the best validation."""
        flow = build_flow(self.architecture)
        flow.load_state_dict(load_file(self.folder / BEST))
        return flow

    def _tested(self) -> Array | None:
        """Return the kept likelihoods of test images; None where there are none of the last step."""
        path = self.folder / TEST
        if not path.is_file():
            return None
        with np.load(path) as kept:
            return np.asarray(kept["nats"]) if int(kept["step"]) == self.step else None

    def record(self, gap: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was measured, for JSON, with the difference from the reference row where both were tested."""
        tested = self._tested()
        plateau = plateau_of([p.step for p in self.curve], [p.nats for p in self.curve]) if self.curve else None
        return {
            "group": self.group.name,
            "row": self.row.name,
            "recipe": self.recipe,
            "seed": self.seed,
            "dataset": self.dataset.name,
            "dimensions": math.prod(self.dataset.image_shape),
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(self.device),
            "config": self.config.model_dump(mode="json"),
            "planned_steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "diverged": self.diverged,
            "curve": [asdict(point) for point in self.curve],
            "best_step": self.best_step,
            "plateau": asdict(plateau) | {"reached": plateau.reached} if plateau is not None else None,
            "test": None if tested is None else mean_of(tested) | {"images": len(tested)},
            "gap": gap,
        }


def batches_of(batches: Batches, dataset: str) -> Batches:
    """Return the batches of a training, augmented where the paper did so for this dataset."""
    return replace(batches, augmentation="crop-flip") if dataset in AUGMENTED else batches


def frozen_nats(flow: Flow, images: NDArray[np.uint8], device: str = "cpu") -> Array:
    """Return the negative log-likelihood of each image by the form of a flow that is served: log-dets computed once."""
    shape: tuple[int, int, int] = (images.shape[1], images.shape[2], images.shape[3])
    frozen = freeze(copy.deepcopy(flow).cpu().eval(), shape)
    engine = TorchEngine(frozen, CHUNK, device=device)
    return np.concatenate([-run_flow(engine, frozen, x).terms().sum((1, 2)) for x in noisy_chunks(images)])


@torch.no_grad()
def float64_nats(flow: Flow, images: NDArray[np.uint8], device: str = "cpu") -> Array:
    """Return the negative log-likelihood of each image by the flow itself, with every layer in float64."""
    reference = copy.deepcopy(flow).to(device).double().eval()
    parts = [-reference(torch.from_numpy(x).to(device)).log_likelihood.cpu().numpy() for x in noisy_chunks(images)]
    return np.concatenate(parts)


def noisy_chunks(images: NDArray[np.uint8]) -> Iterator[Array]:
    """Yield images plus uniform noise, equal in every call, so that rows are compared in pairs."""
    for start in range(0, len(images), CHUNK):
        chunk = np.asarray(images[start : start + CHUNK])
        yield chunk + np.random.default_rng((start, 2021)).random(chunk.shape)


def mean_of(nats: Array) -> dict[str, float]:
    """Return the mean, and its standard error over the images."""
    return {"nats": float(nats.mean()), "error": float(nats.std() / math.sqrt(len(nats)))}


def gap_of(run: Run, reference: Run) -> dict[str, Any] | None:
    """Return the mean difference of two rows on the same test images with the same noise, with its standard error.

    Both are tested with the weights of their best validations, whose steps are part of it. None for a row and itself,
    and where the rows have not taken equally many steps.
    """
    if run.row.name == reference.row.name or run.step != reference.step:
        return None
    best_steps = [run.best_step, reference.best_step]
    return {"to": reference.row.name, **mean_of(run.test() - reference.test()), "best_steps": best_steps}
