"""Our side: flows of a preset's shape with weights of a sane size, and the engines that run them.

The only module that knows how engines are opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.speed.pairing import Turn, timed
from benchmarks.speed.peers import ROOT
from snf_models.artifacts.manifest import Precision
from snf_models.bijections.coupling import CouplingNet
from snf_models.bijections.frozen import Inverse
from snf_models.errors import EngineUnavailable
from snf_models.flows.architecture import Architecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.pipeline.presets import find_preset
from snf_models.scoring import open_density as engines
from snf_models.scoring.frozen import FlowEngine, FrozenFlow, freeze, sample_frozen
from snf_models.scoring.options import EngineOptions
from snf_runtime.scoring.likelihood import score_images
from snf_runtime.scoring.pixel_density import PixelDensity, content_stream

DIGEST = "speed"
COMPILED = ROOT / "var" / "speed" / "compiled"
INITIALISED_ON = 64


def open_engine(frozen: FrozenFlow, threads: int, precision: Precision = "float32") -> FlowEngine | None:
    """Return the engine that the product chooses here for this precision, None where none has it.

    As in the service, what was compiled and measured is kept for the next run.
    """
    torch.set_num_threads(threads)
    try:
        return engines.open_engine(frozen, options(threads, precision))
    except EngineUnavailable as problem:
        print(f"no engine in {precision}: {problem}", flush=True)
        return None


def options(threads: int, precision: Precision | None = None) -> EngineOptions:
    """Return what our engines are told."""
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
        cls, preset: str, shape: tuple[int, int, int], images: int, threads: int, precision: Precision = "float32"
    ) -> Ours | None:
        """Return a flow of the preset with random weights and ``images`` random images; None without an engine."""
        flow = random_flow(preset, shape)
        frozen = freeze(flow, shape)
        engine = open_engine(frozen, threads, precision)
        if engine is None:
            return None
        pictures = random_images(images, shape)
        return cls(flow, frozen, engine, pictures, dequantised(pictures))

    @property
    def pixels(self) -> NDArray[np.float64]:
        """What the engine gets: the images after dequantisation and pixel transform."""
        return self.frozen.pixel_function.map_with_slope(self.dequantised.numpy())[0]

    @property
    def density(self) -> PixelDensity:
        """The flow with its engine, as scoring takes them."""
        return PixelDensity(self.engine, self.frozen, DIGEST)

    def score(self) -> Turn:
        """Score all images, from 8-bit pixels to likelihoods with their evidence."""
        return timed(lambda: score_images(self.density, self.images))

    def engine_pass(self) -> Turn:
        """Run the flow alone on all images."""
        y = self.pixels
        return timed(lambda: self.engine.forward(y))

    def eager(self, batch: int) -> Turn:
        """Score with the flow as it is trained, plain PyTorch in float32, in batches."""
        x = self.dequantised.float()
        flow = self.flow

        @torch.inference_mode()
        def work() -> None:
            for part in torch.split(x, batch):
                _ = flow(part).log_likelihood

        return timed(work)

    def sample(self, count: int, inverse: Inverse) -> Turn:
        """Draw ``count`` images."""
        return timed(lambda: sample_frozen(self.engine, self.frozen, count, inverse=inverse))

    def describe(self) -> str:
        """Return engine and precision."""
        return f"{self.engine.name}, {self.engine.precision}"


def random_flow(preset: str, shape: tuple[int, int, int]) -> Flow:
    """Return a flow of the preset whose couplings do something, in evaluation mode."""
    return flow_of(find_preset(preset).architecture(shape, "logit"))


def flow_of(architecture: Architecture) -> Flow:
    """Return a flow of this architecture, the same way."""
    torch.manual_seed(0)
    flow = build_flow(architecture)
    with torch.no_grad():
        for net in flow.modules():
            if isinstance(net, CouplingNet):
                nn.init.normal_(net.last.weight, std=0.1 / (9 * net.last.in_channels) ** 0.5)
    flow.eval()
    flow.initialize(dequantised(random_images(INITIALISED_ON, architecture.image_shape)).float())
    return flow


def random_images(count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return images of noise: time does not depend on what is in them."""
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def dequantised(images: NDArray[np.uint8]) -> Tensor:
    """Return the points that images are scored at, float64."""
    return torch.from_numpy(np.stack([image + content_stream(image, DIGEST).random(image.shape) for image in images]))


def coupling_work(flow: Flow, shape: tuple[int, int, int]) -> dict[str, Any]:
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
