"""A training takes the number of threads with which its steps were fastest at its start, and keeps it."""

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snf_models.artifacts.files import WEIGHTS
from snf_models.errors import Interrupted
from snf_models.pipeline.loop import choose_threads
from snf_models.pipeline.presets import PRESETS
from snf_models.pipeline.run import RUN_FILE, train
from snf_models.registry.registry import ZOO
from snf_models.scorer import load_model
from snf_models.scoring import EngineName, EngineOptions
from snf_models.threads import prefetch, torch_threads
from tests.models.helpers import QUICK, real_images
from tests.models.training.runs import TORCH, Events, small_digits

STEP_S: dict[str, dict[int, float]] = {"one": {1: 0.05, 2: 0.08}, "two": {1: 0.08, 2: 0.05}}
DISTURBED = [0, 0, 0.05, 0, 0, 0.08, 0, 0, 0.9, 0, 0, 0.08, 0, 0, 0.05, 0, 0, 0.08]
BUSY = [0, 0, 0.9, 0, 0, 0.08, 0, 0, 0.05, 0, 0, 0.08, 0, 0, 0.9, 0, 0, 0.08]
"""Seconds before each look at the clock: with two threads, with one, and so on."""


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def timer(seconds: Callable[[int], float]) -> Callable[[], float]:
    """Return a clock on which a step takes ``seconds`` of the number of threads."""
    now = 0.0

    def read() -> float:
        nonlocal now
        now += seconds(torch.get_num_threads())
        return now

    return read


@pytest.mark.parametrize(
    ("most", "seconds", "expected"),
    [
        (2, lambda count: STEP_S["two"][count], 2),
        (2, lambda count: STEP_S["one"][count], 1),
        (2, lambda count: {2: 0.100, 1: 0.102}[count], 1),  # the second core is worth more to others
        (4, lambda count: {4: 0.09, 2: 0.03, 1: 0.04}[count], 2),
        (2, iter(DISTURBED), 2),  # a disturbance
        (2, iter(BUSY), 1),  # a process that computes beside it, and rests once
    ],
)
def test_the_fastest_number_is_chosen(most: int, seconds: Any, expected: int) -> None:
    dataset = small_digits()
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, QUICK.pixel_transform)
    clock = timer(seconds if callable(seconds) else lambda _count: next(seconds))
    with torch_threads(most):
        assert choose_threads(dataset, architecture, QUICK, clock) == expected
        assert torch.get_num_threads() == most, "as before"


def run(
    folder: Path, faster: str, stop_at: int | None = None, threads: int | None = None
) -> tuple[list[int], list[str]]:
    """Train in ``folder``, and return the number of threads of each step, and the lines of the log."""
    used: list[int] = []
    events: Events = []

    def should_stop() -> bool:
        used.append(torch.get_num_threads())
        return len(used) == stop_at

    with nullcontext() if stop_at is None else pytest.raises(Interrupted):
        train(
            small_digits(),
            "snf-glow-tiny",
            QUICK,
            folder,
            observe=events.append,
            should_stop=should_stop,
            threads=threads,
            engine=TORCH,
            timer=timer(lambda count: STEP_S[faster][count]),
        )
    return used, [event["message"] for event in events if event["event"] == "log"]


def weights(folder: Path) -> bytes:
    return (folder / "artifact" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("faster", "count"), [("one", 1), ("two", 2)])
def test_a_chosen_number_gives_the_weights_of_a_given_one(faster: str, count: int, tmp_path: Path) -> None:
    used, log = run(tmp_path / "chosen", faster)
    assert set(used) == {count}
    assert f"trains with {count} of 2 CPU threads" in log
    assert torch.get_num_threads() == 2, "for all that follows the steps"
    run(tmp_path / "given", faster, threads=count)
    assert weights(tmp_path / "chosen") == weights(tmp_path / "given")


@pytest.mark.parametrize(("before", "after", "count"), [("one", "two", 1), ("two", "one", 2)])
def test_a_resumed_run_keeps_its_number_and_ends_with_the_same_weights(
    before: str, after: str, count: int, tmp_path: Path
) -> None:
    run(tmp_path / "whole", before)
    run(tmp_path / "resumed", before, stop_at=3)
    used, log = run(tmp_path / "resumed", after)
    assert set(used) == {count}
    assert "continues from step 3, the newest checkpoint" in log
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


def test_a_resumed_run_takes_what_there_is_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, "two", stop_at=3)
    with torch_threads(1):
        used, log = run(tmp_path, "two")
    assert set(used) == {1}
    assert log[0].startswith("trains with 1 of 1 CPU threads; it began with 2")


def test_a_given_number_wins(tmp_path: Path) -> None:
    run(tmp_path, "one", stop_at=3)
    used, _ = run(tmp_path, "one", stop_at=1, threads=2)
    assert used == [2]
    assert json.loads((tmp_path / RUN_FILE).read_text())["threads"] == 2


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("model", ["mnist-snf-glow", "cifar10-snf-glow"])
def test_scores_are_the_same_with_any_number_of_threads(model: str, engine: EngineName) -> None:
    scores = []
    for threads in (1, 2):
        scorer = load_model(ZOO / model / "1", options=EngineOptions(engine, threads=threads))
        channels, side, _ = scorer.manifest.architecture.image_shape
        images = real_images(30, channels=channels)
        images = np.pad(images, ((0, 0), (0, 0), (0, side - 28), (0, side - 28)))
        scores.append([score.log_likelihood for score in scorer.score(images)])
    assert scores[0] == scores[1]


class Source:
    def __init__(self, count: int, failure: Exception | None = None) -> None:
        self.made = 0
        self.threads: set[int] = set()
        self.closed_in: int | None = None
        self._count = count
        self._failure = failure

    def items(self) -> Generator[int]:
        try:
            for number in range(self._count):
                self.threads.add(threading.get_ident())
                self.made += 1
                yield number
            if self._failure is not None:
                raise self._failure
        finally:
            self.closed_in = threading.get_ident()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_everything_comes_in_order(count: int) -> None:
    source = Source(count)
    assert list(prefetch(source.items())) == list(range(count))
    assert source.threads <= {source.closed_in}
    assert threading.get_ident() not in source.threads


def test_items_are_made_before_they_are_asked_for_and_not_too_many() -> None:
    source = Source(100)
    found = prefetch(source.items(), 3)
    assert next(found) == 0
    deadline = time.monotonic() + 10
    while source.made < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert source.made == 4
    found.close()
    assert {source.closed_in} == source.threads


def test_what_fails_is_raised_after_what_came_before() -> None:
    found = prefetch(Source(2, ValueError("broken")).items())
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(found)
