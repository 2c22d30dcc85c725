"""The plan of a group: for how many steps all of its rows are trained, and at which of them they are measured.

A budget is in minutes a row. All rows of a group get the same number of steps: so many that the whole group takes its
number of rows times the budget. The rows that need more time for a step have more of it, and the budget cuts all of
them at the same step.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.paper.recipes import Recipe, architecture_of, config_of, dataset_of
from benchmarks.paper.rows import Group, Row
from benchmarks.paper.run import CURVE
from snf_models.disk import write_atomically
from snf_models.errors import Interrupted
from snf_models.pipeline.loop import Trainer

POINTS = 24
"""Points of a learning curve, evenly spaced."""
TIMED_STEPS = 3
FILE = "plan.json"


class PlanDiffers(Exception):
    """Raised when the trainings in a work folder do not agree with another budget."""


@dataclass(frozen=True)
class Plan:
    """For how many steps every row of a group is trained.

    ``budget`` are the minutes a row that were asked for, None where the steps were; ``step_seconds`` those measured for
    each row on the kind of device.
    """

    budget: float | None
    steps: int
    step_seconds: dict[str, float]
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.budget is None else f"{self.budget:g} minutes a row on {self.device}"


def make_plan(group: Group, recipe: Recipe, budget: float | None, steps: int | None, folder: Path, device: str) -> Plan:
    """Return the plan that a work folder has, or make one for a budget in minutes a row or a number of steps.

    Raises ``PlanDiffers`` where the folder has the plan of another budget or device and the recipe depends on its
    steps, or where it has a training of more steps.
    """
    if steps is not None:
        steps = in_phase(steps, group)
    path, kind = folder / FILE, torch.device(device).type
    known = Plan(**json.loads(path.read_text())) if path.is_file() else None
    if known is not None:
        if known.steps == steps if steps is not None else (known.budget, known.device) == (budget, kind):
            return known
        if recipe != "published":
            asked = Plan(budget, 0, {}, kind) if steps is None else Plan(None, steps, {}, kind)
            raise PlanDiffers(
                f"{folder} has trainings of {known} ({known.steps} steps), and their rate falls over them: expected "
                f"the same, got {asked}; choose another --work"
            )
    seconds: dict[str, float] = {}
    if steps is None:
        assert budget is not None
        seconds = {row.name: step_seconds(group, row, recipe, device) for row in group.rows}
        steps = in_phase(affordable_steps(budget, list(seconds.values())), group)
    taken = taken_steps(folder)
    if steps < taken:
        raise PlanDiffers(
            f"{folder} has a training of {taken} steps, and all rows are compared at equal steps: expected at least "
            f"{taken}, got {steps}; choose a larger budget, --steps {taken} or another --work"
        )
    plan = Plan(None if not seconds else budget, steps, seconds, kind)
    write_atomically(path, (json.dumps(asdict(plan), indent=1) + "\n").encode())
    return plan


def taken_steps(folder: Path) -> int:
    """Return the steps of the longest training in a work folder; 0 without any."""
    curves = [json.loads(path.read_text()) for path in folder.glob(f"*/{CURVE}")]
    return max((curve[-1]["step"] for curve in curves if curve), default=0)


def affordable_steps(budget: float, seconds: Sequence[float]) -> int:
    """Return for how many steps each of several rows can be trained in ``budget`` minutes a row, in all.

    >>> affordable_steps(10, [0.1, 0.5])
    2000
    """
    return max(1, int(60 * budget * len(seconds) / sum(seconds)))


def in_phase(steps: int, group: Group) -> int:
    """Return the step nearest to ``steps`` at which the group may be measured.

    >>> from benchmarks.paper.rows import DENSE, PROJECTION
    >>> in_phase(1234, DENSE), in_phase(1234, PROJECTION)
    (1234, 1255)
    """
    return max(0, round((steps - group.phase) / 100)) * 100 + group.phase if group.phase else steps


def curve_steps(steps: int, steps_per_epoch: int, group: Group) -> list[int]:
    """Return the steps after which all rows are measured: evenly spaced, and after the first epochs that are known."""
    even = {in_phase(round(steps * (number + 1) / POINTS), group) for number in range(POINTS)}
    known = {epoch * steps_per_epoch for row in group.rows for epoch in row.code_curve}
    return sorted(step for step in even | known | {steps} if 0 < step <= steps)


def finish_on(device: str) -> Callable[[], None]:
    """Return a function that returns when a device has done all work, at once on a CPU."""
    return (lambda: torch.cuda.synchronize(device)) if torch.device(device).type == "cuda" else lambda: None


def step_seconds(group: Group, row: Row, recipe: Recipe, device: str) -> float:
    """Return the median time of a training step of a row."""
    dataset = dataset_of(group.dataset)
    config = config_of(group, row, recipe, 1000, 0)
    architecture = architecture_of(row, dataset.image_shape, config)
    ends, finish = [time.perf_counter()], finish_on(device)
    with tempfile.TemporaryDirectory(prefix="snf-paper-") as folder:
        trainer = Trainer(dataset, architecture, config, Path(folder), lambda _event: None, device)

        def enough() -> bool:
            finish()
            ends.append(time.perf_counter())
            return len(ends) > TIMED_STEPS + 1  # the first step allocates

        with suppress(Interrupted):
            trainer.take_steps(enough)
    return float(np.median(np.diff(ends)[1:]))
