"""Suspects are left out of what a flow learns from: which ones, with which gradient, over restarts."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import Dataset
from snf_models.errors import TrainingDiverged
from snf_models.flows.flow import Flow
from snf_models.pipeline.loop import Trainer, trimmed_bits_per_dim
from snf_models.pipeline.presets import PRESETS
from snf_models.scoring.frozen import freeze
from snf_models.training.objective import WINDOW, SelfNormalizingObjective, Suspects
from tests.models.helpers import QUICK, dequantised, glow, real_images
from tests.models.training.runs import report_every

SHAPE = (1, 16, 16)
SHARE = 0.2
Run = tuple[Trainer, list[dict[str, Any]]]


def follow(suspects: Suspects, batch: Tensor, active: bool = True) -> Tensor:
    """Trim a batch, remember it, return the weights."""
    trimmed = suspects.trim(batch, active=active)
    suspects.update(trimmed, torch.tensor(True))
    return trimmed.weights(batch)


class TestWeights:
    def test_the_lowest_of_one_batch(self) -> None:
        batch = torch.tensor([3.0, -50.0, 1.0, 2.0, 5.0, 4.0, -9.0, 6.0, 7.0, 8.0, 9.0])
        trimmed = Suspects(0.2).trim(batch, active=True)
        weights = trimmed.weights(batch)
        assert (weights == 0).tolist() == (batch < 0).tolist()
        torch.testing.assert_close(weights[batch > 0], torch.full((9,), 11 / 9))
        torch.testing.assert_close(trimmed.log_likelihood, batch[batch > 0].mean())
        torch.testing.assert_close((weights * batch).mean(), trimmed.log_likelihood)

    def test_not_active_leaves_nothing_out(self) -> None:
        batch = torch.tensor([3.0, -50.0, 1.0])
        trimmed = Suspects(0.4).trim(batch, active=False)
        assert trimmed.weights(batch).tolist() == [1, 1, 1]
        assert trimmed.log_likelihood == batch.mean()

    @pytest.mark.parametrize("size", [2, 7, 64, 1500])
    @pytest.mark.parametrize("share", [0.05, 0.3])
    def test_the_share_holds_over_batches_of_any_size_while_likelihoods_rise(self, size: int, share: float) -> None:
        generator = torch.Generator().manual_seed(0)
        suspects = Suspects(share)
        left_out = images = 0
        for step in range(1200 // min(size, 100)):
            batch = torch.randn(size, generator=generator) * 100 - 2000 + 10 * step
            weights = follow(suspects, batch)
            assert weights.mean() == pytest.approx(1, abs=1e-6)
            assert (weights > 0).sum() * 2 >= size
            left_out, images = left_out + int((weights == 0).sum()), images + size
        # The windows overlap in time: their quantile is that of about 1024 images, no more.
        assert left_out / images == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / min(images, WINDOW)))

    def test_strange_images_are_left_out_however_many_a_batch_has(self) -> None:
        """Of each batch the lowest tenth would spare some of these where there are many, and take good ones else."""
        generator = torch.Generator().manual_seed(0)
        suspects = Suspects(0.1)
        spared = good = dirt = by_batch = 0
        for step in range(90):
            batch = torch.randn(32, generator=generator)
            strange = torch.rand(32, generator=generator) < 0.07
            batch[strange] -= 1000
            weights = follow(suspects, batch)
            if step >= 32:  # the window is full
                spared += int((weights[strange] > 0).sum())
                good += int((weights[~strange] == 0).sum())
                dirt += int(strange.sum())
                by_batch += max(0, int(strange.sum()) - 3)
        assert spared == 0
        assert by_batch > 0.1 * dirt
        assert good < 0.05 * 58 * 32

    def test_equal_images_are_all_kept(self) -> None:
        suspects = Suspects(0.49)
        for size in (2, 3, 64):
            assert follow(suspects, torch.full((size,), -7.0)).tolist() == [1] * size

    @pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
    def test_what_is_not_finite_stays_visible(self, bad: float) -> None:
        batch = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, bad])
        weights = Suspects(0.3).trim(batch, active=True).weights(batch)
        assert not (weights * batch).mean().isfinite()

    @pytest.mark.parametrize("share", [-0.1, 0.5, 1.0, math.nan])
    def test_shares_that_are_none(self, share: float) -> None:
        with pytest.raises(ValidationError, match="suspect_share"):
            TrainingConfig(suspect_share=share)


def batch(flow: Flow, count: int = 10) -> tuple[Tensor, Tensor]:
    """Digits after the pixel transform, and the log-det of that."""
    y, log_det = flow.pixels(dequantised(real_images(count, 16)))
    return y.detach(), log_det.detach()


def objective_for(flow: Flow, **settings: Any) -> SelfNormalizingObjective:
    return SelfNormalizingObjective(flow, SHAPE, TrainingConfig(warmup_steps=3, **settings)).double()


def gradients(value: Tensor, flow: Flow) -> dict[str, Tensor]:
    parameters = dict(flow.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(value, list(parameters.values())), strict=True))


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert value.abs().max() > 1e-9, f"{name}: a gradient of zero proves nothing"
        torch.testing.assert_close(
            got[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


def kept_of(flow: Flow, y: Tensor, log_det: Tensor) -> list[int]:
    """The places of all but the two least likely of ten."""
    return sorted(flow.forward_pixels(y, log_det).log_likelihood.argsort()[2:].tolist())


class TestGradient:
    def test_of_exact_layers_is_that_of_the_kept_images(self) -> None:
        """Against plain differentiation of -mean log p / D over the images that are no suspects, float64."""
        flow = glow(16, linear="exact").double().train()
        y, log_det = batch(flow)
        loss = objective_for(flow, suspect_share=SHARE).loss(flow, y, log_det, step=3)
        likelihoods = flow.forward_pixels(y, log_det).log_likelihood
        kept = kept_of(flow, y, log_det)
        expected = -flow.forward_pixels(y[kept], log_det[kept]).log_likelihood.mean() / 256
        torch.testing.assert_close(loss.value, expected)
        assert_equal(gradients(loss.value, flow), gradients(expected, flow))
        # What people are told is of all images.
        torch.testing.assert_close(loss.log_likelihood, likelihoods.mean().detach())
        torch.testing.assert_close(-loss.trimmed.log_likelihood / 256, expected.detach())

    @pytest.mark.parametrize("multiplier", ["fixed", "geco", "mdmm"])
    def test_of_self_normalizing_layers_is_that_of_a_batch_without_suspects(self, multiplier: str) -> None:
        flow = glow(16).double().train()
        y, log_det = batch(flow)
        settings = {"multiplier": multiplier, "reconstruction_target": 1e-4, "noise_reconstruction": 0.5}
        loss = objective_for(flow, suspect_share=SHARE, **settings).loss(flow, y, log_det, step=3)
        kept = kept_of(flow, y, log_det)
        expected = objective_for(flow, **settings).loss(flow, y[kept], log_det[kept], step=3)
        torch.testing.assert_close(loss.value, expected.value)
        torch.testing.assert_close(loss.reconstruction_errors, expected.reconstruction_errors)
        assert_equal(gradients(loss.value, flow), gradients(expected.value, flow))

    def test_in_the_warm_up_all_images_count(self) -> None:
        flow = glow(16).double().train()
        y, log_det = batch(flow)
        for step, same in ((2, True), (3, False)):
            loss = objective_for(flow, suspect_share=SHARE).loss(flow, y, log_det, step)
            plain = objective_for(flow).loss(flow, y, log_det, step)
            assert torch.allclose(loss.value, plain.value, rtol=1e-12, atol=0) == same


def test_off_leaves_no_trace() -> None:
    flow = glow(16).train()
    objective = SelfNormalizingObjective(flow, SHAPE, TrainingConfig())
    assert TrainingConfig().suspect_share == 0
    assert set(objective.state_dict()) == {"multiplier.weights"}
    y, log_det = flow.pixels(dequantised(real_images(8, 16)))
    loss = objective.loss(flow, y.float(), log_det.float(), 1000)
    assert loss.trimmed is None
    assert torch.equal(loss.log_likelihood, flow.forward_pixels(y.float(), log_det.float()).log_likelihood.mean())


def dirty() -> Dataset:
    """Digits, one in eight of which is noise in the parts that train and select."""
    images = real_images(300, 16)
    images[::8] = np.random.default_rng(0).integers(0, 256, images[::8].shape)
    return Dataset("dirty", images[:240], images[240:], images[:0], images[:0], "digest")


def run(folder: Path) -> Run:
    config = QUICK.model_copy(update={"suspect_share": SHARE, "max_steps": 8, "validation_images": 60})
    dataset = dirty()
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    events: list[dict[str, Any]] = []
    trainer = Trainer(dataset, architecture, config, folder, events.append)
    trainer.run(lambda: False)
    return trainer, events


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("whole"))


def test_validation_tells_of_all_images_and_selects_by_the_others(uninterrupted: Run) -> None:
    trainer, events = uninterrupted
    (found,) = (event for event in events if event["event"] == "validation")
    statistics, frozen = trainer.dataset.statistics, freeze(trainer.averaged, trainer.dataset.image_shape)
    assert found["bits_per_dim"] == trimmed_bits_per_dim(frozen, statistics, 0.0)[0]
    assert trainer.state.best_bits_per_dim == found["kept_bits_per_dim"]
    assert found["kept_bits_per_dim"] < found["bits_per_dim"] - 0.1
    one_by_one = sorted(trimmed_bits_per_dim(frozen, statistics[i : i + 1], 0.0)[0] for i in range(60))
    bits, kept = trimmed_bits_per_dim(frozen, statistics, SHARE)
    assert bits == pytest.approx(sum(one_by_one) / 60, abs=1e-6)
    assert kept == pytest.approx(sum(one_by_one[:48]) / 48, abs=1e-6)


def test_suspects_that_get_unlikely_are_no_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is learned from counts; there the same rise is one."""
    report_every(0, monkeypatch)
    monkeypatch.setattr("snf_models.training.divergence.DIVERGED_REPORTS", 3)
    loss_of = SelfNormalizingObjective.loss
    spoiled = {"log_likelihood": True, "trimmed": False}

    def loss(self: SelfNormalizingObjective, flow: Flow, y: Tensor, log_det: Tensor, step: int, *more: Any) -> Any:
        found = loss_of(self, flow, y, log_det, step, *more)
        fall = torch.tensor(-1e4 * step)
        assert found.trimmed is not None
        trimmed = found.trimmed
        if spoiled["trimmed"]:
            trimmed = replace(trimmed, log_likelihoods=fall[None], floor=torch.tensor(-math.inf))
        return type(found)(found.value, fall, found.reconstruction_errors, trimmed)

    monkeypatch.setattr(SelfNormalizingObjective, "loss", loss)
    run(tmp_path / "suspects")
    spoiled["trimmed"] = True
    with pytest.raises(TrainingDiverged, match="bits/dim rose"):
        run(tmp_path / "all")
