"""Random flows as data score as the determinant of their whole Jacobian says.

Each seed gives a small flow of random levels, layers, splits and repeated steps of every layer type. It is built from
its JSON, initialised on real digits, trained for a step and frozen. Its log-likelihood of an image is compared with one
that uses no log-det of any layer: the Jacobian from pixels to latents by automatic differentiation in float64, and its
determinant by NumPy.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.pixels import MarginalPixels
from snf_models.datasets import load_dataset
from snf_models.flows.architecture import LayeredArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.flows.layers import AffineCouplingSpec, ImageShape, LayerSpec, layer_types
from snf_models.scoring.frozen import freeze
from snf_models.scoring.torch_engine import TorchEngine
from snf_models.training.objective import BatchLoss, SelfNormalizingObjective
from snf_runtime.scoring.evidence import run_flow

SHAPES = ((1, 4, 4), (1, 4, 8), (1, 8, 8), (2, 4, 4), (2, 6, 4), (3, 4, 4), (1, 5, 7), (3, 3, 3))
BATCH = 32
TOLERANCE = 1e-6
"""Largest relative difference of two log-likelihoods."""

PARAMETERS: dict[str, Callable[[random.Random], Any]] = {
    "kernel": lambda chance: chance.choice((1, 3, 5, [3, 1], [1, 5])),
    "width": lambda chance: chance.choice((1, 4, 8)),
    "place": lambda chance: chance.choice((False, True)),
    "reverse": lambda chance: chance.choice((False, True)),
    "channel_rank": lambda chance: chance.randint(1, 3),
    "spatial_rank": lambda chance: chance.randint(1, 4),
    "grid": lambda chance: chance.randint(1, 4),
    "bins": lambda chance: chance.randint(2, 8),
    "bound": lambda chance: chance.choice((1.5, 3.0, 10.0)),
    "alpha": lambda chance: chance.choice((0.05, 0.3, 0.9)),
}
"""Random values of the parameters of layer types."""


@dataclass(frozen=True)
class Comparison:
    """A random flow: its log-likelihood of an image as served and by the whole Jacobian, in nats."""

    seed: int
    layers: list[str]
    dimensions: int
    served: float
    by_jacobian: float

    @property
    def difference(self) -> float:
        """Difference relative to the log-likelihood."""
        return abs(self.served - self.by_jacobian) / max(1.0, abs(self.by_jacobian))


def random_architecture(seed: int) -> dict[str, Any]:
    """Return the JSON document of a random architecture of up to three levels."""
    chance = random.Random(seed)  # no secret
    shape: ImageShape = chance.choice(SHAPES)
    document = {**dict(zip(("channels", "height", "width"), shape, strict=True)), "family": "layers"}
    document["pixel_transform"] = chance.choice(("affine", "logit", "marginal"))
    levels: list[dict[str, Any]] = []
    count = chance.randint(1, 3)
    for number in range(1, count + 1):
        channels, height, width = shape
        squeeze = height % 2 == width % 2 == 0 and min(height, width) > 2 and chance.random() < 0.7
        shape = (4 * channels, height // 2, width // 2) if squeeze else shape
        steps = [_random_step(chance, shape) for _ in range(chance.randint(1, 4))]
        if number == count:
            # A flow has at least one layer with weights.
            steps.append({"type": "actnorm"})
        level: dict[str, Any] = {"squeeze": squeeze, "steps": steps}
        if number < count and shape[0] > 1 and chance.random() < 0.5:
            level["split"] = {"width": PARAMETERS["width"](chance)}
            shape = ((shape[0] + 1) // 2, *shape[1:])
        levels.append(level)
    return {**document, "levels": levels}


def _random_step(chance: random.Random, shape: ImageShape) -> dict[str, Any]:
    """Return a layer that takes images of ``shape``, or two that are repeated."""
    if chance.random() < 0.8:
        return _random_layer(chance, shape)
    return {"repeat": 2, "steps": [_random_layer(chance, shape), _random_layer(chance, shape)]}


@cache
def _kinds() -> list[type[LayerSpec]]:
    """Return the layer types of this package; to look for those of others takes a hundredth of a second each time."""
    return [kind for kind in layer_types() if kind.__module__.startswith("snf_models.")]


def _random_layer(chance: random.Random, shape: ImageShape) -> dict[str, Any]:
    while True:
        kind = chance.choice(_kinds())
        layer = kind.model_validate(
            {name: PARAMETERS[name](chance) for name in kind.model_fields if name in PARAMETERS}
        )
        if _takes(layer, shape):
            return layer.model_dump(mode="json")


def _takes(layer: LayerSpec, shape: ImageShape) -> bool:
    try:
        layer.check(shape)
    except ValueError:
        return False
    return True


def compare(seed: int) -> Comparison:
    """Build, train for a step and freeze a random flow, and score an image by it and by its Jacobian."""
    text = json.dumps(random_architecture(seed))
    architecture = LayeredArchitecture.model_validate_json(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = build_flow(architecture)
    images = _digits(architecture.image_shape)
    x = torch.from_numpy(images + np.random.default_rng(seed).random(images.shape))
    if isinstance(flow.pixels, MarginalPixels):
        flow.pixels.fit(images)
    _take_step(flow, architecture, x[:BATCH].float())
    flow.eval().requires_grad_(False)
    frozen = freeze(flow, architecture.image_shape)
    served = float(run_flow(TorchEngine(frozen), frozen, x[BATCH:].numpy()).terms().sum())
    layers = [layer.type for level in architecture.shaped() for layer in level.layers]
    layers += [f"{AffineCouplingSpec.type_name()} (split)" for level in architecture.levels if level.split is not None]
    return Comparison(seed, layers, x[0].numel(), served, log_likelihood_by_jacobian(flow, x[BATCH:]))


def _digits(shape: ImageShape) -> NDArray[np.uint8]:
    """Return the middle of real digits, with other digits as further channels, uint8 ``(BATCH + 1, C, H, W)``."""
    channels, height, width = shape
    images = load_dataset("mnist-mini", None).train[: (BATCH + 1) * channels, 0]
    top, left = (28 - height) // 2, (28 - width) // 2
    return np.ascontiguousarray(images[:, top : top + height, left : left + width]).reshape(BATCH + 1, *shape)


def _take_step(flow: Flow, architecture: LayeredArchitecture, x: Tensor) -> None:
    flow.train()
    flow.initialize(x)
    config = TrainingConfig(reconstruction_weight=1.0, precision="float32")
    objective = SelfNormalizingObjective(flow, architecture.image_shape, config)
    loss = BatchLoss(flow, objective)(x, 0)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    torch.autograd.backward(loss.value)
    optimizer.step()


def log_likelihood_by_jacobian(flow: Flow, x: Tensor) -> float:
    """Return log p of an image, float64 ``(1, C, H, W)``, without the log-det of any layer: only maps of the flow.

    log p(x) = log N(z; 0, I) + log|det dz/dx|.
    """
    exact = Flow(flow.pixels, [level.double() for level in flow.level_list()]).eval()
    # Each row of the Jacobian is the gradient of a copy of the image: all rows take one pass.
    copies = x.expand(x.numel(), *x.shape[1:]).clone().requires_grad_()
    latents = torch.cat([part.flatten(1) for part in exact(copies).latents], 1)
    (jacobian,) = torch.autograd.grad(latents.diagonal().sum(), copies)
    z = latents[0].detach()
    log_det = float(np.linalg.slogdet(jacobian.flatten(1).numpy()).logabsdet)
    return float(-0.5 * z.square().sum()) - 0.5 * z.numel() * math.log(2 * math.pi) + log_det


SEEDS = range(26)
"""Each type of layer is in three of the flows at least, as in those of forty seeds."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_flow_is_exact(seed: int) -> None:
    compared = compare(seed)
    assert compared.difference <= TOLERANCE, compared


def test_every_layer_type_is_among_the_random_flows() -> None:
    names = Counter(word for seed in SEEDS for word in str(random_architecture(seed)).split("'"))
    assert {layer_type.type_name() for layer_type in layer_types()} <= names.keys()
