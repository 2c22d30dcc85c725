"""Detection of diverged trainings, and log-dets that training leaves out."""

import copy
import itertools
import math
import re
from collections.abc import Callable, Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.base import Bijection, ChannelAffine
from snf_models.datasets import Dataset
from snf_models.errors import TrainingDiverged
from snf_models.flows.architecture import ConvolutionalArchitecture, FullyConnectedArchitecture, GlowArchitecture
from snf_models.flows.flow import Flow, walk
from snf_models.pipeline.loop import Trainer
from snf_models.training.divergence import DIVERGED_REPORTS, REPORT_SHARE, ReportHistory, SkippedSteps, Skips
from snf_models.training.objective import Loss
from snf_models.training.optimizer import average
from tests.models.helpers import QUICK, CountedCalls, real_images
from tests.models.training.runs import Events, report_every, run, trainer_in

Overflowing = tuple[Trainer, Events]

DIVERGING = TrainingConfig(
    max_steps=40, validations=1, batch_size=32, validation_images=20, warmup_steps=0, precision="float32"
)


def test_divergence_is_named(tmp_path: Path) -> None:
    config = DIVERGING.model_copy(update={"learning_rate": 1.0, "gradient_clip": 1e9})
    advice = "batches of 32 images are small for this flow: set batch_size to 64 or more; else a smaller learning_rate"
    with pytest.raises(TrainingDiverged, match=rf"^step \d+: .*; {advice} than 1"):
        run(tmp_path, config=config)


@pytest.mark.parametrize(
    ("images", "advice"),
    [(64, "a smaller learning_rate"), (20, "batches of 20 images are small .* which takes as many training images")],
)
def test_advice_follows_the_size_of_the_batches(images: int, advice: str, tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path)
    trainer.batches = replace(trainer.batches, batch_size=images)
    assert re.match(advice, trainer._advice())


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("levels.0.steps.1.weight", "the weights levels.0.steps.1.weight are not finite"),
        ("levels.1.steps.2.net.last.bias", "the weights levels.1.steps.2.net.last.bias are not finite"),
    ],
)
def test_a_weight_that_is_not_finite_is_named(name: str, cause: str, tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path, side=16)
    with torch.no_grad():
        trainer.flow.get_parameter(name).fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=cause):
        trainer.run(lambda: False)
    assert not list(tmp_path.glob("checkpoints/step-*")), "nothing that is not finite is kept"


def test_a_layer_that_overflows_is_named(tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path, side=16)
    with torch.no_grad():
        trainer.flow.get_parameter("levels.1.steps.0.log_scale").fill_(-200)
    with pytest.raises(TrainingDiverged, match=r"level 2, bijection 1 \(ActNorm\) gave values that are not finite"):
        trainer.run(lambda: False)


@pytest.fixture(params=[False, True], ids=["read at once", "read at reports"])
def overflowing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Overflowing]:
    """Trainings whose loss is infinite at some steps, with skips noticed as on a CPU, and as on a GPU."""

    def make(folder: Path, bad: Container[int], report_seconds: float = 0.5, **settings: Any) -> Overflowing:
        report_every(report_seconds, monkeypatch)
        trainer, events = trainer_in(folder, QUICK.model_copy(update=settings))
        trainer.deferred = request.param
        loss_of = trainer.loss_of

        def overflow(images: Tensor, step: int) -> Loss:
            loss = loss_of(images, step)
            return replace(loss, value=loss.value * math.inf) if step in bad else loss

        trainer.loss_of = overflow
        return trainer, events

    return make


def test_a_batch_that_overflows_changes_nothing_and_ends_no_training(
    tmp_path: Path, overflowing: Callable[..., Overflowing], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "refresh_inverse_every": 1,
        "corrected_directions": 2,
        "ema_decay": 0.9,
        "multiplier": "geco",
        "suspect_share": 0.1,
    }
    trainer, events = overflowing(tmp_path, (1, 2), 1000, **settings)
    states: list[Tensor] = []
    step_of = trainer._step

    def recorded(*arguments: Any) -> Loss:
        loss = step_of(*arguments)
        tensors = [tensor for module in trainer.modules.values() for tensor in module.state_dict().values()]
        states.append(torch.cat([tensor.detach().flatten().nan_to_num(0).double() for tensor in tensors]))
        return loss

    monkeypatch.setattr(trainer, "_step", recorded)
    trainer.run(lambda: False)
    same = [torch.equal(before, after) for before, after in itertools.pairwise(states)]
    assert same == [True, True, False, False, False]
    skipped = [event["message"].partition(":")[0] for event in events if "no weights" in str(event.get("message"))]
    if trainer.deferred:
        assert skipped == ["2 steps, the last one 2, change no weights"]
    else:
        assert skipped == ["step 1 changes no weights", "step 2 changes no weights"]
    assert all(math.isfinite(event["bits_per_dim"]) for event in events if event["event"] == "metrics")


@pytest.mark.parametrize("report_seconds", [0, 1000])
def test_five_batches_in_a_row_that_overflow_end_a_training_whenever_it_reports(
    report_seconds: float, tmp_path: Path, overflowing: Callable[..., Overflowing]
) -> None:
    trainer, events = overflowing(tmp_path, range(3, 8), report_seconds, max_steps=12)
    with pytest.raises(TrainingDiverged, match=r"^step 7: the gradients are not finite, while .* are[; ]") as end:
        trainer.run(lambda: False)
    late = trainer.deferred and report_seconds > 0
    assert trainer.state.step == (12 if late else 8 if trainer.deferred else 7)
    # The weights that name the cause are those of the step, or those that the text names.
    assert ("(with the weights of step 12)" in str(end.value)) is late
    assert len([event for event in events if "changes no weights" in str(event.get("message"))]) == (0 if late else 4)


def test_too_many_skips_stay_too_many() -> None:
    """Six of a hundred steps are, though they are few of the thousand steps until the numbers are read."""
    skipped = SkippedSteps(torch.device("cpu"), 1000)
    for step in range(1000):
        skipped.add(torch.tensor(step in (10, 20, 30, 40, 50, 60, 900)), step)
    assert skipped.read() == Skips(new=7, in_a_row=0, last=900, too_many=True)


def test_an_average_ignores_a_step_that_changed_nothing(tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path)
    start, flow = trainer.averaged, trainer.flow
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(1)
    kept, moved, plain = (copy.deepcopy(start) for _ in "abc")
    average(kept, flow, 0.9, 100, torch.tensor(False))
    average(moved, flow, 0.9, 100, torch.tensor(True))
    average(plain, flow, 0.9, 100)
    for before, same, after, expected in zip(
        start.parameters(), kept.parameters(), moved.parameters(), plain.parameters(), strict=True
    ):
        assert torch.equal(same, before)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, expected)


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
    monkeypatch.setattr("snf_models.training.divergence.DIVERGED_REPORTS", 1)
    with pytest.raises(TrainingDiverged, match=f"bits/dim rose from {first - 100:.2f}"):
        resumed.run(lambda: False)


SIDE = 8
SIZE = {"channels": 1, "height": SIDE, "width": SIDE}
STEPS = 50
CONFIG = TrainingConfig(
    max_steps=STEPS, validations=1, batch_size=32, validation_images=60, warmup_steps=5, precision="float32"
)
ARCHITECTURES = {
    "glow": GlowArchitecture(**SIZE, levels=1, steps=2, hidden=8),
    "dense": FullyConnectedArchitecture(**SIZE),
    "convolutions": ConvolutionalArchitecture(**SIZE, blocks=2, layers=2),
    "two-layer": ConvolutionalArchitecture(**SIZE, blocks=1, layers=2, linear="self-normalizing-two-layer"),
    "relative": FullyConnectedArchitecture(**SIZE, linear="relative"),
}


def trainer_of(folder: Path, kind: str, config: TrainingConfig = CONFIG) -> tuple[Trainer, Events]:
    images = real_images(300, SIDE)
    dataset = Dataset("digits-8", images[:200], images[200:], images[200:], images[200:], "digest")
    events: Events = []
    return Trainer(dataset, ARCHITECTURES[kind], config, folder, events.append), events


def left_out(flow: Flow) -> float:
    """The exact log-dets that training leaves out, in nats an image."""
    return sum(
        layer.constant_log_det_at(shape)
        for _, steps, _ in walk(flow, (1, SIDE, SIDE))
        for _, layer, shape in steps
        if layer.omits_log_det
    )


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report after every step."""
    report_every(0, monkeypatch)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_log_det_is_followed_through_a_training(kind: str, tmp_path: Path) -> None:
    """Within 2 % of its change, which is all that an error of the learned inverse acts on."""
    trainer, _ = trainer_of(tmp_path, kind)
    trainer.log_dets.start(trainer.flow)
    start = left_out(trainer.flow)
    errors = []
    for step in range(STEPS):
        trainer._step(trainer.batches.batch(step), step, 0.0)
        if step % 5 == 4:
            errors.append(abs(trainer.log_dets.total() - left_out(trainer.flow)))
    change = abs(left_out(trainer.flow) - start)
    assert change > 0.5
    assert max(errors) < 0.02 * change


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("kind", ["glow", "dense", "convolutions"])
def test_reports_compute_no_determinant(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, events = trainer_of(tmp_path, kind, CONFIG.model_copy(update={"max_steps": 10}))
    trainer.log_dets.start(trainer.flow)
    monkeypatch.setattr(Bijection, "constant_log_det_at", lambda *_: pytest.fail("a report computes a determinant"))
    monkeypatch.setattr(trainer.log_dets, "start", lambda *_: None)
    monkeypatch.setattr(trainer, "_validate", lambda *_args, **_options: None)
    with CountedCalls() as calls:
        trainer.take_steps(lambda: False)
    assert set(calls.cubic) == {"linalg_vector_norm"}, "that of the gradient, which is clipped"
    assert sum(event["event"] == "metrics" for event in events) == 10


def test_a_validation_computes_every_log_det_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a batch of images."""
    monkeypatch.setattr("snf_models.pipeline.loop.BATCH", 30)
    trainer, events = trainer_of(tmp_path, "glow", CONFIG.model_copy(update={"validation_images": 100}))
    calls: list[str] = []
    original = ChannelAffine.constant_log_det_at

    def counted(self: ChannelAffine, shape: Any) -> float:
        calls.append(type(self).__name__)
        return original(self, shape)

    monkeypatch.setattr(ChannelAffine, "constant_log_det_at", counted)
    trainer._validate(50)
    assert [event["event"] for event in events][:1] == ["validation"]
    assert sorted(calls) == ["ActNorm", "ActNorm", "SelfNormalizingConv1x1", "SelfNormalizingConv1x1"]


def test_a_validation_starts_anew_from_exact_log_dets(tmp_path: Path) -> None:
    """From those of the averaged weights to the present ones."""
    trainer, _ = trainer_of(tmp_path, "dense")
    trainer.log_dets.start(trainer.flow)
    for step in range(20):
        trainer._step(trainer.batches.batch(step), step, 0.0)
    trainer._validate(50)
    difference = abs(left_out(trainer.flow) - left_out(trainer.averaged))
    assert difference > 0.1
    assert trainer.log_dets.total() == pytest.approx(left_out(trainer.flow), abs=0.05 * difference)


def test_a_singular_layer_stops_the_training_with_its_name(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, "dense")
    with torch.no_grad():
        trainer.averaged.get_parameter("levels.0.steps.2.weight")[3] = 0
    with pytest.raises(TrainingDiverged, match=r"step 0: the layer levels\.0\.steps\.2 has no inverse"):
        trainer._validate(50)


def test_slow_reports_come_less_often() -> None:
    history = ReportHistory(step=0)
    assert history.due(0.0)
    history.add(1, 3.0, now=10.0)
    assert (history.due(10.4), history.due(10.5)) == (False, True)
    history.took(0.2)
    assert (history.due(10.0 + 0.19 / REPORT_SHARE), history.due(10.0 + 0.21 / REPORT_SHARE)) == (False, True)
