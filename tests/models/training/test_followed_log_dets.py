"""Log-determinants followed by their gradient between exact computations, and reports that compute none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from snf_models.bijections.base import Bijection, ChannelAffine
from snf_models.datasets import Dataset
from snf_models.errors import TrainingDiverged
from snf_models.flows.architecture import ConvolutionalArchitecture, FullyConnectedArchitecture, GlowArchitecture
from snf_models.flows.flow import Flow, walk
from snf_models.pipeline.loop import Trainer
from snf_models.training.config import TrainingConfig
from snf_models.training.divergence import REPORT_SHARE, ReportHistory
from tests.models.helpers import CountedCalls, real_images

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
Events = list[dict[str, Any]]


def trainer_in(folder: Path, kind: str, config: TrainingConfig = CONFIG) -> tuple[Trainer, Events]:
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
    monkeypatch.setattr("snf_models.training.divergence.REPORT_SECONDS", 0)
    monkeypatch.setattr("snf_models.training.divergence.REPORT_SHARE", 1e9)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_log_det_is_followed_through_a_training(kind: str, tmp_path: Path) -> None:
    """Within 2 % of its change, which is all that an error of the learned inverse acts on."""
    trainer, _ = trainer_in(tmp_path, kind)
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
    trainer, events = trainer_in(tmp_path, kind, CONFIG.model_copy(update={"max_steps": 10}))
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
    trainer, events = trainer_in(tmp_path, "glow", CONFIG.model_copy(update={"validation_images": 100}))
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
    trainer, _ = trainer_in(tmp_path, "dense")
    trainer.log_dets.start(trainer.flow)
    for step in range(20):
        trainer._step(trainer.batches.batch(step), step, 0.0)
    trainer._validate(50)
    difference = abs(left_out(trainer.flow) - left_out(trainer.averaged))
    assert difference > 0.1
    assert trainer.log_dets.total() == pytest.approx(left_out(trainer.flow), abs=0.05 * difference)


def test_a_singular_layer_stops_the_training_with_its_name(tmp_path: Path) -> None:
    trainer, _ = trainer_in(tmp_path, "dense")
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
