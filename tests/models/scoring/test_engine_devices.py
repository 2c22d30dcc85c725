"""Scoring on another device; torch's meta device, which has no values, stands for one."""

import pytest
import torch

from snf_models.bijections.frozen import moved
from snf_models.errors import DeviceNotFound, EngineUnavailable
from snf_models.flows.flow import Flow
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import freeze
from snf_models.scoring.open_density import open_engine
from snf_models.scoring.torch_engine import TorchEngine
from tests.models.anomaly.flows import convolutional, fully_connected, off_inverse
from tests.models.helpers import frozen_glow, glow, images_back, scores_of, transformed
from tests.models.scoring.test_engines import FLOAT32, points
from tests.support.waiting import NoWaiting


@pytest.mark.parametrize("flow", [off_inverse(glow(16)), convolutional(16)], ids=["glow", "convolutional"])
def test_a_tile_makes_nothing_on_another_device(flow: Flow) -> None:
    frozen = freeze(flow, (1, 16, 16))
    engine = TorchEngine(frozen)
    y = frozen.pixels(points(frozen, 4))[0].detach()
    expected = engine._forward_tile(y)
    engine._levels = moved(frozen.levels, torch.device("meta"))
    tile = y.to("meta")
    engine._forward_tile(tile)  # brings constants to the device
    with NoWaiting():
        # A CUDA graph cannot contain a wait.
        found = engine._forward_tile(tile)
        images = engine._inverse_tile(found[0], "learned")
    assert (images.device.type, images.shape) == ("meta", y.shape)
    for part, expected_part in zip(found, expected, strict=True):
        for got, want in zip(part, expected_part, strict=True):
            assert (got.device.type, got.shape, got.dtype) == ("meta", want.shape, want.dtype)


def test_a_tensor_left_behind_would_be_seen() -> None:
    frozen = freeze(off_inverse(glow(16)), (1, 16, 16))
    with pytest.raises(RuntimeError, match="device"):
        TorchEngine(frozen)._forward_tile(torch.empty(4, 1, 16, 16, dtype=torch.float64, device="meta"))


def test_layers_that_cannot_move_are_named() -> None:
    with pytest.raises(TypeError, match="on the CPU only"):
        moved(freeze(fully_connected(), (1, 6, 6)).levels, torch.device("meta"))


def test_memory_that_is_used_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = frozen_glow(8, 1, "logit")[1]

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(TorchEngine, "_forward_tile", full)
    monkeypatch.setattr(TorchEngine, "_inverse_tile", full)
    engine = TorchEngine(frozen)
    y = transformed(frozen, points(frozen, 4))
    with pytest.raises(EngineUnavailable, match=r"no memory left for \d+ images at once: .*SNF_SCORING_DEVICE"):
        engine.forward(y)
    with pytest.raises(EngineUnavailable, match="no memory left"):
        engine.inverse([y], "exact")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceNotFound, match="cuda:3"):
        open_engine(frozen_glow(8, 1, "logit")[1], EngineOptions(device="cuda:3"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is there")
@pytest.mark.parametrize("images", [1, 63, 65])
def test_cuda_agrees_with_the_cpu(images: int) -> None:
    frozen = freeze(off_inverse(glow(16)), (1, 16, 16))
    x = points(frozen, images)
    engine = open_engine(frozen, EngineOptions(device="cuda"))
    expected = scores_of(TorchEngine(frozen), frozen, x)
    torch.testing.assert_close(scores_of(engine, frozen, x), expected, rtol=0, atol=FLOAT32)
    assert torch.equal(scores_of(engine, frozen, x[:1]), scores_of(engine, frozen, x)[:1])
    scales = engine.forward(transformed(frozen, x)).scales
    assert (images_back(engine, frozen, scales) - x).abs().max() < 0.01
