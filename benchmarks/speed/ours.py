"""Our side: flows of a preset's shape with weights of a sane size, and the engines that run them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common import ROOT
from benchmarks.speed.pairing import Turn, timed
from snf_models.artifacts.manifest import Precision
from snf_models.bijections.coupling import CouplingNet
from snf_models.bijections.frozen import Inverse
from snf_models.datasets import load_dataset
from snf_models.errors import EngineUnavailable, ModelsError
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_models.scoring import open_density as engines
from snf_models.scoring.frozen import FlowEngine, FrozenFlow, freeze, sample_frozen
from snf_runtime.scoring.likelihood import score_images
from snf_runtime.scoring.pixel_density import PixelDensity, content_stream

DIGEST = "speed"
KEPT = ROOT / "var" / "speed"
COMPILED = KEPT / "compiled"
"""As in the service, what was compiled and measured is kept for the next run."""
INITIALISED_ON = 64
Size = tuple[int, int, int]


def options(threads: int, precision: Precision | None = None) -> EngineOptions:
    return EngineOptions(precision=precision, threads=threads, cache=COMPILED)


@dataclass(frozen=True)
class Ours:
    """A flow, the same frozen, an engine, and 8-bit images of its shape."""

    flow: Flow
    frozen: FrozenFlow
    engine: FlowEngine
    images: NDArray[np.uint8]
    dequantised: Tensor = field(repr=False)

    @classmethod
    def build(
        cls, preset: str, shape: Size, images: int, threads: int, precision: Precision = "float32"
    ) -> Ours | None:
        """Return a flow with random weights, the engine that the product chooses and random images, or None."""
        flow = random_flow(preset, shape)
        frozen = freeze(flow, shape)
        torch.set_num_threads(threads)
        try:
            engine = engines.open_engine(frozen, options(threads, precision))
        except EngineUnavailable as problem:
            print(f"no engine in {precision}: {problem}", flush=True)
            return None
        pictures = random_images(images, shape)
        return cls(flow, frozen, engine, pictures, dequantised(pictures))

    def score(self) -> Turn:
        """Score all images, from 8-bit pixels to likelihoods with their evidence."""
        density = PixelDensity(self.engine, self.frozen, DIGEST)
        return timed(lambda: score_images(density, self.images))

    def sample(self, count: int, inverse: Inverse) -> Turn:
        return timed(lambda: sample_frozen(self.engine, self.frozen, count, inverse=inverse))

    def describe(self) -> str:
        return f"{self.engine.name}, {self.engine.precision}"


def random_flow(preset: str, shape: Size) -> Flow:
    """Return a flow of the preset whose couplings do something, in evaluation mode."""
    torch.manual_seed(0)
    flow = build_flow(find_preset(preset).architecture(shape, "logit"))
    with torch.no_grad():
        for net in flow.modules():
            if isinstance(net, CouplingNet):
                nn.init.normal_(net.last.weight, std=0.1 / (9 * net.last.in_channels) ** 0.5)
    flow.eval()
    flow.initialize(dequantised(random_images(INITIALISED_ON, shape)).float())
    return flow


def random_images(count: int, shape: Size) -> NDArray[np.uint8]:
    """Return images of noise: time does not depend on what is in them."""
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def dequantised(images: NDArray[np.uint8]) -> Tensor:
    """Return the points that images are scored at, float64."""
    return torch.from_numpy(np.stack([image + content_stream(image, DIGEST).random(image.shape) for image in images]))


def coupling_work(flow: Flow, shape: Size) -> dict[str, Any]:
    """Return what the coupling nets cost: parameters of their convolutions, and multiplications an image."""
    products: list[int] = []

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        products.append(module.weight[0].numel() * output[0].numel())

    convolutions = [
        part for net in flow.modules() if isinstance(net, CouplingNet) for part in (net.first, net.middle, net.last)
    ]
    hooks = [one.register_forward_hook(count) for one in convolutions]
    with torch.inference_mode():
        flow(dequantised(random_images(1, shape)).float())
    for hook in hooks:
        hook.remove()
    parameters = sum(parameter.numel() for one in convolutions for parameter in one.parameters())
    total = sum(parameter.numel() for parameter in flow.parameters())
    return {"parameters": total, "coupling_parameters": parameters, "products": sum(products)}


def artifact(preset: str) -> Path:
    """Return an artifact of the preset for digits, trained for two steps where there is none that loads."""
    path = KEPT / preset / "artifact"
    try:
        load_model(path)
    except (ModelsError, OSError):
        print(f"makes a model of {preset}", flush=True)
        shutil.rmtree(path.parent, ignore_errors=True)
        few = {"max_steps": 2, "batch_size": 32, "validation_images": 16, "precision": "float32"}
        config, digits = find_preset(preset).config(few), load_dataset("mnist-mini", None)
        train(digits, preset, config, path.parent, observe=lambda _: None, should_stop=lambda: False)
    return path
