"""Estimates before training: counts are exact against the built flow; time and memory behave as they must."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.datasets import DatasetSummary
from models.errors import DatasetUnfit
from models.flows.architecture import Architecture, ConvolutionalArchitecture, GlowArchitecture
from models.flows.build import build_flow
from models.scoring.engines import tiles
from models.training import divergence, run, validation
from models.training.config import TrainingConfig
from models.training.cost import estimate
from models.training.cost import time as work
from models.training.cost.estimate import TrainingEstimate, estimate_training
from models.training.presets import PRESETS, find_preset
from tests.models.helpers import mark_initialized

Shape = tuple[int, int, int]
SHAPES: list[Shape] = [(1, 28, 28), (3, 32, 32), (1, 16, 16), (3, 8, 24), (4, 16, 8)]


def splits(shape: Shape = (1, 28, 28)) -> DatasetSummary:
    return DatasetSummary(shape, 50_000, 5_000, 5_000, 10_000)


def architectures() -> list[tuple[str, Architecture]]:
    """Every preset in every shape that it takes, and the linear layers that no preset has."""
    found = []
    for name, shape in product(PRESETS, SHAPES):
        try:
            found.append((f"{name}-{shape}", find_preset(name).architecture(shape, "logit")))
        except DatasetUnfit:
            continue
    size = {"channels": 3, "height": 16, "width": 8}
    two_layer = ConvolutionalArchitecture.model_validate(
        {**size, "blocks": 2, "layers": 2, "linear": "self-normalizing-two-layer", "kernel": 5}
    )
    return [
        *found,
        ("lu", GlowArchitecture.model_validate({**size, "levels": 2, "steps": 2, "hidden": 8, "linear": "lu"})),
        ("two-layer", two_layer),
    ]


@pytest.mark.parametrize(("name", "architecture"), architectures(), ids=lambda value: str(value)[:40])
def test_parameters_are_those_of_the_built_flow(name: str, architecture: Architecture) -> None:
    with torch.device("meta"):
        flow = build_flow(architecture)
    expected = sum(parameter.numel() for parameter in flow.parameters())
    assert estimated(architecture).parameters == expected


def estimated(architecture: Architecture, **config: Any) -> TrainingEstimate:
    return estimate_training(architecture, architecture.image_shape, TrainingConfig(**config), splits())


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        (name, architecture)
        for name, architecture in architectures()
        if architecture.image_shape[1:] in {(16, 16), (16, 8)}
    ],
    ids=lambda value: str(value)[:40],
)
def test_multiply_adds_are_those_of_one_more_image(name: str, architecture: Architecture) -> None:
    """What does not grow with the batch, determinants and kernels, drops out of the difference."""
    flow = build_flow(architecture)
    mark_initialized(flow)
    # The series of the exponential is cut off earlier in training.
    flow.train(getattr(architecture, "linear", "") == "exponential")
    counted = []
    for images in (1, 2):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            flow.forward_pixels(torch.zeros(images, *architecture.image_shape), torch.zeros(images))
        counted.append(counter.get_total_flops())
    assert estimated(architecture).multiply_adds == (counted[1] - counted[0]) // 2


def test_importing_does_not_load_torch() -> None:
    loads = "import sys, models.training.cost.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loads], check=False).returncode == 0


def test_what_is_assumed_of_training_is_so() -> None:
    assert estimate.REPORT_SECONDS == divergence.REPORT_SECONDS
    assert work.VALIDATION_BATCH == validation.BATCH
    assert work.TILE == tiles.DEFAULT_TILE
    assert work.SAMPLES == run.SAMPLE_COUNT
    assert work.PREVIEWED == validation.PREVIEW_SAMPLES


SMALL = find_preset("snf-glow-small").architecture((1, 28, 28), "marginal")


def test_slowness_stretches_time_and_nothing_else() -> None:
    once, twice = (
        estimate_training(SMALL, (1, 28, 28), TrainingConfig(), splits(), slowness=slowness) for slowness in (1.0, 2.0)
    )
    # Checkpoints go by the clock: a slow machine writes more of them.
    assert twice.seconds == pytest.approx(2 * once.seconds, rel=0.01)
    assert twice.model_copy(update={"seconds": once.seconds}) == once


def test_minutes_cap_the_training_part_alone() -> None:
    free, capped = estimated(SMALL, max_steps=100_000), estimated(SMALL, max_steps=100_000, max_minutes=1)
    rest = estimated(SMALL, max_steps=1).seconds
    assert free.seconds > 1000
    assert 60 < capped.seconds < 60 + rest + 10
    assert estimated(SMALL, max_steps=10, max_minutes=1000).seconds == estimated(SMALL, max_steps=10).seconds


@pytest.mark.parametrize(
    "more", [{"max_steps": 4000}, {"batch_size": 128}, {"precision": "float32"}, {"validation_images": 4000}], ids=str
)
def test_more_work_takes_more_time(more: dict[str, Any]) -> None:
    assert estimated(SMALL, **more).seconds > estimated(SMALL).seconds


def test_memory_grows_with_batch_images_and_width() -> None:
    base = estimated(SMALL).memory_bytes
    assert 300e6 < base < 1.5e9
    assert estimated(SMALL, batch_size=512).memory_bytes > base
    many = DatasetSummary((1, 28, 28), 5_000_000, 5_000, 5_000, 10_000)
    assert estimate_training(SMALL, (1, 28, 28), TrainingConfig(), many).memory_bytes > base + 3e9
    medium = find_preset("snf-glow-medium").architecture((1, 28, 28), "marginal")
    assert estimated(medium).memory_bytes > base


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_plausible_estimate(name: str) -> None:
    config = find_preset(name).config({})
    architecture = find_preset(name).architecture((1, 32, 32), config.pixel_transform)
    got = estimate_training(architecture, (1, 32, 32), config, splits((1, 32, 32)))
    assert 10 < got.seconds < 1e8
    assert 2e8 < got.memory_bytes < 1e11
