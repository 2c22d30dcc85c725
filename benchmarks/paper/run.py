"""One training: a row by a recipe with a seed, in turns, with its learning curve, its test and its record."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from benchmarks.paper.angles import angles, exact_twin
from benchmarks.paper.augmentation import batches_of
from benchmarks.paper.images import dataset_of
from benchmarks.paper.likelihood import evaluate, export, exported_nats
from benchmarks.paper.plateau import plateau_of
from benchmarks.paper.recipes import Recipe, architecture_of, config_of
from benchmarks.paper.rows import Group, Row
from snf_models.datasets import Dataset
from snf_models.disk import write_atomically
from snf_models.errors import Interrupted, TrainingDiverged
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.run import RunRecord, claim_folder
from snf_models.training.objective import inverse_errors
from snf_runtime.images.batch import stacked

CURVE, BEST, TEST, DIVERGED = "curve.json", "best.safetensors", "test.npz", "diverged.txt"


class Stopped(Exception):
    """Raised when a training was asked to stop. It goes on from there when it is started again."""


@dataclass(frozen=True)
class Point:
    """A point of a learning curve.

    Attributes:
        step: Steps taken.
        seconds: Time of these steps, without measurements.
        nats: Mean negative log-likelihood of validation images, exact, with the averaged weights.
        angles: Degrees between gradient and exact gradient, by self normalizing layer; empty where they are not
            measured, or cannot be: a process ended between the last checkpoint and its point.
        inverse_errors: ||I - R W||_F / sqrt(D) by self normalizing layer.
        multipliers: Weight of each layer's relative reconstruction error in the loss, in nats a dimension; empty where
            they are not known, as for the angles.
    """

    step: int
    seconds: float
    nats: float
    angles: list[float]
    inverse_errors: list[float]
    multipliers: list[float]


class Run:
    """A training of one row with one seed in a work folder, which goes on where an earlier process left it.

    Args:
        group: The group.
        row: The row.
        recipe: The recipe.
        seed: Seed of weights, order and noise.
        steps: Steps of the whole training.
        work: Work folder of the group and recipe.
        device: "cpu", "cuda" or "cuda:N".
        test_images: Most test images in place of the group's.
        changes: Settings of a smaller training, for tests.

    Raises:
        FolderTaken: The work folder holds a training with other settings; the text names them.
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
        """The images."""
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
        """Steps of one pass over the training images."""
        return max(1, len(self.dataset.train) // self.config.batch_size)

    @property
    def diverged(self) -> str | None:
        """Why the training diverged, if it did."""
        path = self.folder / DIVERGED
        return path.read_text() if path.is_file() else None

    def advance(self, target: int, note: Callable[[int], None], should_stop: Callable[[], bool]) -> None:
        """Train up to a step and add a point to the curve; do nothing where this is done or the training diverged.

        Args:
            target: The step.
            note: Called with the number of steps after each of them.
            should_stop: Called after each step; returns true to end the training.

        Raises:
            Stopped: ``should_stop`` returned true.
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
        nats = float(exported_nats(export(trainer.averaged, shape), images, self.device).mean())
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

    def test(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the negative log-likelihood of each test image, with the weights of the best validation.

        They are computed once, in float64, and kept in the work folder, with the difference of the exported model.
        """
        path = self.folder / TEST
        images = stacked(self.dataset.test[: self.test_images])
        if path.is_file():
            kept = np.load(path)
            if int(kept["step"]) == self.step and len(kept["nats"]) == len(images):
                return np.asarray(kept["nats"])
        flow = build_flow(self.architecture)
        flow.load_state_dict(load_file(self.folder / BEST))
        found = evaluate(flow, images, self.device)
        content = io.BytesIO()
        np.savez(content, nats=found.nats, difference=found.exported_difference, step=self.step)
        write_atomically(path, content.getvalue())
        return found.nats

    def record(self, gap: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was measured, for JSON.

        Args:
            gap: Difference from the reference row of the group, where both were tested.
        """
        path = self.folder / TEST
        tested = np.load(path) if path.is_file() else None
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
            "test": None
            if tested is None or int(tested["step"]) != self.step
            else {
                "nats": float(tested["nats"].mean()),
                "error": float(tested["nats"].std() / math.sqrt(len(tested["nats"]))),
                "images": len(tested["nats"]),
                "exported_difference": float(tested["difference"]),
            },
            "gap": gap,
        }


def gap_of(run: Run, reference: Run) -> dict[str, Any] | None:
    """Return the mean difference of two rows on the same test images with the same noise, with its standard error.

    Both are tested with the weights of their best validations, whose steps are part of it. None for a row and itself,
    and where the rows have not taken equally many steps.
    """
    if run.row.name == reference.row.name or run.step != reference.step:
        return None
    differences = run.test() - reference.test()
    return {
        "to": reference.row.name,
        "nats": float(differences.mean()),
        "error": float(differences.std() / math.sqrt(len(differences))),
        "best_steps": [run.best_step, reference.best_step],
    }
