"""Training in two processes against training in one: the same run, but for the order in which numbers are added."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.training.config import TrainingConfig
from models.training.distributed import Ranks
from models.training.objective import SelfNormalizingObjective
from tests.models.helpers import dequantised, glow, real_images
from tests.models.training.rank_process import Events, train, train_in

DIMENSIONS = 16 * 16

pytestmark = pytest.mark.timeout(300)


def curve(events: Events, key: str) -> Tensor:
    return torch.tensor([event[key] for event in events if event["event"] == "metrics"], dtype=torch.float64)


def weights(folder: Path, step: int, part: str = "weights") -> dict[str, Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / f"{part}.safetensors")


def assert_same_training(tmp_path: Path, steps: int, run: dict[str, Any], tolerance: float) -> None:
    run = {"max_steps": steps} | run
    codes, (two, other) = train_in(tmp_path / "two", 2, [run, run])
    one = train(tmp_path / "one", 0, 1, "", run)
    assert codes == [0, 0]
    assert other == [], "the first process alone reports"
    for key in ("bits_per_dim", "reconstruction_error", "learning_rate"):
        assert len(curve(one, key)) == steps
        torch.testing.assert_close(curve(two, key), curve(one, key), rtol=0, atol=tolerance)
    for part in ("weights", "averaged", "objective"):
        mine, theirs = weights(tmp_path / "two", steps, part), weights(tmp_path / "one", steps, part)
        for name, value in mine.items():
            # As much of a log-likelihood in nats as `tolerance` is of one in bits per dimension.
            atol = tolerance * DIMENSIONS * math.log(2) if name == "suspects.deviations" else 10 * tolerance
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=atol, equal_nan=True, msg=f"{part}.{name}")


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    # At larger step sizes training amplifies rounding more than this: the order of the images in a batch does as much.
    assert_same_training(tmp_path, 200, {"learning_rate": 5e-4}, 1e-4)


@pytest.mark.parametrize("multiplier", ["geco", "mdmm"])
def test_two_processes_agree_on_multipliers(multiplier: str, tmp_path: Path) -> None:
    run = {"multiplier": multiplier, "reconstruction_target": 1e-6, "noise_reconstruction": 1.0}
    assert_same_training(tmp_path, 20, run | {"learning_rate": 5e-4, "refresh_inverse_every": 7}, 1e-4)


@pytest.mark.parametrize("multiplier", ["fixed", "geco", "mdmm"])
def test_the_mean_of_the_slices_gradients_is_the_gradient_of_the_batch(multiplier: str) -> None:
    flow = glow(16).train().double()
    # A target that no slice meets, so that the quadratic part of the penalty counts.
    config = TrainingConfig.model_validate({"multiplier": multiplier, "reconstruction_target": 1e-4})
    objective = SelfNormalizingObjective(flow, (1, 16, 16), config).double()
    y, log_det = flow.pixels(dequantised(real_images(7, 16)))
    parameters = list(flow.parameters())
    batch = objective.loss(flow, y, log_det, 0)
    expected = torch.autograd.grad(batch.value, parameters)
    assert (batch.reconstruction_errors > 2e-4).all()
    got = [torch.zeros_like(gradient) for gradient in expected]
    for rank in range(3):
        (part, share), (part_log_det, _) = Ranks(rank, 3).share(y), Ranks(rank, 3).share(log_det)
        loss = objective.loss(flow, part, part_log_det, 0, lambda _: batch.reconstruction_errors)
        for total, gradient in zip(got, torch.autograd.grad(loss.value, parameters), strict=True):
            total.add_(share * gradient)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_a_batch_that_does_not_divide(tmp_path: Path) -> None:
    assert_same_training(tmp_path, 20, {"batch_size": 7}, 1e-5)


def test_two_processes_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    run = {"max_steps": 20}
    train_in(tmp_path / "whole", 2, [run, run])
    # Any process may be asked to stop: all do, one step later.
    codes, (first, second) = train_in(tmp_path / "parts", 2, [run, run | {"stop_at": 8}])
    assert codes == [0, 0]
    assert first[-1] == second[-1] == {"event": "interrupted", "message": "stopped after step 9"}
    _, (events, _) = train_in(tmp_path / "parts", 2, [run, run])
    assert events[0]["message"] == "goes on from the checkpoint of step 9"
    for part in ("weights", "averaged", "optimizer"):
        for name, value in weights(tmp_path / "whole", 20, part).items():
            assert torch.equal(value, weights(tmp_path / "parts", 20, part)[name]), f"{part}.{name}"


def test_the_first_process_keeps_the_time(tmp_path: Path) -> None:
    run = {"max_steps": 1_000_000, "max_minutes": 0.03}
    codes, (events, _) = train_in(tmp_path, 2, [run, run])
    assert codes == [0, 0]
    assert events[-2]["event"] == "checkpoint"


@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_ends_the_others(dies: int, tmp_path: Path) -> None:
    run = {"max_steps": 1_000_000}
    codes, _ = train_in(tmp_path, 2, [run | ({"die_at": 3} if rank == dies else {}) for rank in range(2)], seconds=60)
    assert codes[dies] == 9
    assert codes[1 - dies] == 1


def test_processes_that_start_from_different_steps_are_refused(tmp_path: Path) -> None:
    train(tmp_path, 0, 1, "", {"max_steps": 20, "stop_at": 2})
    codes, _ = train_in(tmp_path, 2, [{"max_steps": 20}, {"max_steps": 21}])
    assert codes == [1, 1]


def test_more_processes_than_images_are_refused(tmp_path: Path) -> None:
    run = {"max_steps": 2, "batch_size": 2}
    codes, _ = train_in(tmp_path, 3, [run] * 3)
    assert codes == [1, 1, 1]


def test_slices_are_the_batch() -> None:
    batch = torch.arange(14).reshape(7, 2)
    parts, shares = zip(*(Ranks(rank, 3).share(batch) for rank in range(3)), strict=True)
    assert torch.equal(torch.cat(parts), batch)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert math.fsum(shares) == pytest.approx(1)
    part, share = Ranks.single().share(batch)
    assert torch.equal(part, batch)
    assert share == 1
