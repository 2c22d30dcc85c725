"""Numbers of Keller et al. 2021 and of the published code that this project must meet on the real digits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from snf_models.bijections.conformance import randomise
from snf_models.bijections.dense import SelfNormalizingDense
from snf_models.bijections.pixels import LogitPixels
from snf_models.datasets import Dataset, Images, load_dataset
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.frozen import constant_log_dets
from snf_models.training.objective import self_normalizing_layers
from snf_runtime.scoring.pixel_density import content_noise

DATA_DIR = Path(os.environ.get("SNF_DATA_DIR") or "no-such-folder")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA_DIR / "mnist.npz").is_file(), reason="SNF_DATA_DIR has no mnist.npz"),
]
SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load_dataset("mnist", DATA_DIR)


def dequantised(images: Images) -> Tensor:
    """Pixels with the first draw of the noise that belongs to each image, float64."""
    return torch.from_numpy(images + np.concatenate([content_noise(image, "paper") for image in images]))


def fully_connected(name: str, seed: int = 0) -> Flow:
    """The fully connected model of a preset at its initialisation, float64, evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_flow(find_preset(name).architecture(SHAPE, "logit")).double().eval()


@torch.no_grad()
def log_likelihoods(flow: Flow, images: Images) -> Tensor:
    return torch.cat([flow(dequantised(images[at : at + 500])).log_likelihood for at in range(0, len(images), 500)])


def test_log_dets_of_the_preprocessing(mnist: Dataset) -> None:
    """+272.69 with a standard error of 1.4 by the published code; 272.7 +- 0.3 in the appendix of November 2020."""
    pixels = LogitPixels()
    log_dets = torch.cat([pixels(dequantised(mnist.test[at : at + 1000]))[1] for at in range(0, 10_000, 1000)])
    assert len(log_dets) == 10_000
    assert float(log_dets.mean()) == pytest.approx(272.7, abs=3)


def test_likelihood_of_the_fully_connected_model_before_training(mnist: Dataset) -> None:
    """3263.6 nats on all 10,000 validation images by the published code at one draw of its biases.

    Tolerance: the standard error of 5,000 images and the spread over draws of the biases, b ~ N(0, 1/D), the only
    random numbers at W = R = I; both are measured here, three of their joint deviations are allowed for.
    """
    assert len(mnist.statistics) == 5000
    by_image = log_likelihoods(fully_connected("snf-fc-2l"), mnist.statistics)
    some = mnist.statistics[:500]
    by_draw = torch.stack([log_likelihoods(fully_connected("snf-fc-2l", seed), some).mean() for seed in range(6)])
    deviation = float((by_image.var() / len(by_image) + 2 * by_draw.var()).sqrt())
    assert deviation < 10
    assert -float(by_image.mean()) == pytest.approx(3263.6, abs=3 * deviation)


@torch.no_grad()
def test_exact_and_self_normalizing_models_of_the_same_weights_have_the_same_likelihoods(mnist: Dataset) -> None:
    learned, exact = fully_connected("snf-fc-2l"), fully_connected("exact-fc-2l")
    randomise(learned, 0.01)
    layers = self_normalizing_layers(learned)
    assert [type(layer) for layer in layers] == [SelfNormalizingDense] * 2
    weights = {name: value for name, value in learned.state_dict().items() if not name.endswith("inverse_weight")}
    exact.load_state_dict(weights)
    images = mnist.test[:200]
    expected = log_likelihoods(exact, images)
    assert torch.equal(log_likelihoods(learned, images), expected)
    # What is stored for serving: R plays no part in it.
    assert constant_log_dets(learned, SHAPE) == constant_log_dets(exact, SHAPE)
