"""A training takes the number of threads with which its steps are fastest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.threads import fastest_threads, torch_threads
from models.training import loop
from models.training.interrupted import Interrupted
from models.training.loop import Trainer
from models.training.objective import Loss
from models.training.presets import PRESETS
from models.training.run import train
from tests.models.helpers import QUICK
from tests.models.training.runs import small_digits


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with torch_threads(2):
        yield


def threads_of_steps(most: int, steps: int, seconds: Callable[[int, int], float]) -> list[int]:
    """Return the number of threads of each step; ``seconds`` is of the threads and the number of the step."""
    trial = fastest_threads(most)
    counts = [next(trial)]
    while len(counts) < steps:
        counts.append(trial.send(seconds(counts[-1], len(counts) - 1)))
    return counts


@pytest.mark.parametrize(
    ("most", "seconds", "expected"),
    [
        (2, lambda count, _: {2: 0.05, 1: 0.08}[count], 2),
        (2, lambda count, _: {2: 0.08, 1: 0.05}[count], 1),
        (2, lambda count, _: {2: 0.100, 1: 0.102}[count], 1),  # the second core is worth more to others
        (8, lambda count, _: {8: 0.09, 4: 0.03, 2: 0.04}[count], 4),
        (2, lambda count, step: 9.0 if step % 4 == 0 else {2: 0.05, 1: 0.08}[count], 2),  # preparation
        (2, lambda count, step: 0.9 if step == 2 else {2: 0.05, 1: 0.08}[count], 2),  # a disturbance
    ],
)
def test_the_fastest_number_is_used(most: int, seconds: Callable[[int, int], float], expected: int) -> None:
    counts = threads_of_steps(most, 5000, seconds)
    assert counts[40:400] == [expected] * 360
    assert counts.count(expected) > 0.96 * len(counts)


@pytest.mark.parametrize(
    ("seconds", "tried"),
    [
        (lambda count, _: 30.0 * 64 / count, [64, 64, 32, 64]),  # the operations are large
        (lambda count, _: {64: 9.0, 32: 6.0, 16: 0.5}.get(count, 0.9), [64, 64, 32, 32, 16, 16, 16, 16, 16]),
    ],
)
def test_long_steps_are_tried_once(seconds: Callable[[int, int], float], tried: list[int]) -> None:
    assert threads_of_steps(64, len(tried), seconds) == tried


def test_a_neighbour_that_comes_or_goes_changes_the_number() -> None:
    def seconds(count: int, step: int) -> float:
        return {2: 2.5, 1: 0.08}[count] if 1000 <= step < 9000 else {2: 0.05, 1: 0.08}[count]

    counts = threads_of_steps(2, 20000, seconds)
    assert counts[100:1000].count(2) > 880
    assert counts[1000:1030].count(2) < 8, "a few slow steps are enough"
    assert counts[1030:9000].count(2) < 0.003 * 8000
    assert counts[-1000:].count(2) > 950


def test_steps_take_the_number_that_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    validated: list[int] = []
    step, validate = Trainer._step, Trainer._validate

    def noted(trainer: Trainer, *arguments: Any) -> Loss:
        used.append(torch.get_num_threads())
        return step(trainer, *arguments)

    def noted_validation(trainer: Trainer, *arguments: Any, **options: Any) -> None:
        validated.append(torch.get_num_threads())
        validate(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, "_step", noted)
    monkeypatch.setattr(Trainer, "_validate", noted_validation)
    turns = itertools.count()
    monkeypatch.setattr(loop, "fastest_threads", lambda most: (count for _ in turns for count in (most, 1, 1)))
    dataset = small_digits()
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, QUICK.pixel_transform)
    Trainer(dataset, architecture, QUICK, tmp_path, lambda _event: None, choose_threads=True).take_steps(lambda: False)
    assert used == ([2, 1, 1] * QUICK.max_steps)[: QUICK.max_steps]
    assert set(validated) == {2}
    assert torch.get_num_threads() == 2, "as before"


@pytest.mark.parametrize("given", ["setting", "environment"])
def test_a_given_number_is_kept(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fastest_threads", pytest.fail)
    if given == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(Interrupted):
        train(
            small_digits(),
            "snf-glow-tiny",
            QUICK,
            tmp_path,
            observe=lambda _event: None,
            should_stop=lambda: True,
            threads=2 if given == "setting" else None,
        )
    assert torch.get_num_threads() == 2
