"""Trainings that diverge are named and ended; a single spike or batch that overflows is not a divergence."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.errors import TrainingDiverged
from models.training.config import TrainingConfig
from models.training.divergence import DIVERGED_REPORTS, ReportHistory
from models.training.objective import Loss
from tests.models.training.runs import run, trainer_in

DIVERGING = TrainingConfig(
    max_steps=40, validations=1, batch_size=32, validation_images=20, warmup_steps=0, precision="float32"
)


def test_divergence_is_named(tmp_path: Path) -> None:
    config = DIVERGING.model_copy(update={"learning_rate": 1.0, "gradient_clip": 1e9})
    with pytest.raises(TrainingDiverged, match=r"^step \d+: .*; a smaller learning rate than 1 or a longer warm-up"):
        run(tmp_path, config=config)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("levels.0.steps.1.weight", "the weights levels.0.steps.1.weight are not finite"),
        ("levels.1.steps.2.net.last.bias", "the weights levels.1.steps.2.net.last.bias are not finite"),
    ],
)
def test_a_weight_that_is_not_finite_is_named(name: str, cause: str, tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path)
    with torch.no_grad():
        trainer.flow.get_parameter(name).fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=cause):
        trainer.run(lambda: False)
    assert not list(tmp_path.glob("checkpoints/step-*")), "nothing that is not finite is kept"


def test_a_layer_that_overflows_is_named(tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path)
    with torch.no_grad():
        trainer.flow.get_parameter("levels.1.steps.0.log_scale").fill_(-200)
    with pytest.raises(TrainingDiverged, match=r"level 2, bijection 1 \(ActNorm\) gave values that are not finite"):
        trainer.run(lambda: False)


def test_a_batch_that_overflows_changes_no_weights_and_ends_no_training(tmp_path: Path) -> None:
    trainer, events = trainer_in(tmp_path)
    loss_of = trainer.loss_of
    weights: list[Tensor] = []

    def overflow(images: Tensor, step: int) -> Loss:
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.flow.parameters()]))
        loss = loss_of(images, step)
        return replace(loss, value=loss.value * math.inf) if step in (1, 2) else loss

    trainer.loss_of = overflow
    trainer.run(lambda: False)
    same = [torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert same == [False, True, True, False, False]
    skipped = [event["message"] for event in events if "no weights" in str(event.get("message"))]
    assert [message.partition(":")[0] for message in skipped] == ["2 steps, the last one 2, change no weights"]
    assert all(math.isfinite(event["bits_per_dim"]) for event in events if event["event"] == "metrics")


def test_five_batches_in_a_row_that_overflow_end_a_training(tmp_path: Path) -> None:
    trainer, events = trainer_in(tmp_path)
    loss_of = trainer.loss_of

    def overflow(images: Tensor, step: int) -> Loss:
        loss = loss_of(images, step)
        return replace(loss, value=loss.value * math.inf)

    trainer.loss_of = overflow
    with pytest.raises(TrainingDiverged, match=r"^step 4: the gradients are not finite"):
        trainer.run(lambda: False)
    assert len([event for event in events if "changes no weights" in str(event.get("message"))]) == 4


def test_a_spike_is_no_divergence() -> None:
    history = ReportHistory(0)
    history.add(1, 5.0, now=1)
    for step in range(2, 6):
        history.add(step, 16.0, now=step)
    assert history.bad_in_a_row == 4
    history.add(6, 14.0, now=6)
    assert history.bad_in_a_row == 0
    for step in range(7, 7 + DIVERGED_REPORTS):
        assert not history.diverged
        history.add(step, 16.0, now=step)
    assert history.diverged


def test_a_divergence_is_measured_from_the_first_report_before_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, events = run(tmp_path, stop_at=3)
    first = next(event["bits_per_dim"] for event in events if event["event"] == "metrics")
    resumed, _ = trainer_in(tmp_path)
    assert resumed.state.first_bits_per_dim == stopped.state.first_bits_per_dim == first
    resumed.state = replace(resumed.state, first_bits_per_dim=first - 100)
    monkeypatch.setattr("models.training.divergence.DIVERGED_REPORTS", 1)
    with pytest.raises(TrainingDiverged, match=f"bits/dim rose from {first - 100:.2f}"):
        resumed.run(lambda: False)
