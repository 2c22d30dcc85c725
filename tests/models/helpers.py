"""Small flows, real images in odd sizes, and log-dets by plain automatic differentiation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from snf_client.schemas.training import TrainingConfig
from snf_models.artifacts.files import CALIBRATION, PINNED, WEIGHTS
from snf_models.artifacts.manifest import FILE, GridChoice
from snf_models.bijections.conformance import randomise
from snf_models.bijections.frozen import Inverse
from snf_models.bijections.pixels import MarginalPixels
from snf_models.bulk.plan import BulkPlan
from snf_models.datasets import load_dataset
from snf_models.disk import sha256_file
from snf_models.flows.architecture import GlowArchitecture, PixelTransform, depth
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.scoring import EngineName, EngineOptions
from snf_models.scoring.frozen import FlowEngine, FrozenFlow, freeze
from snf_models.scoring.open_density import open_engine
from snf_models.training.objective import Loss, SelfNormalizingObjective
from snf_runtime.scoring.density import Engine
from snf_runtime.scoring.evidence import run_flow

torch.set_num_threads(1)

QUICK = TrainingConfig(
    max_steps=6, validations=1, batch_size=32, validation_images=20, warmup_steps=2, precision="float32"
)
"""A training run of a few seconds, in arithmetic that every machine has."""


def grid_choice(grid: int, shrinkage: float, mean_shrinkage: float) -> GridChoice:
    return GridChoice(grid=grid, shrinkage=shrinkage, mean_shrinkage=mean_shrinkage, held_out_nats=0.0)


def real_images(count: int, side: int = 28, channels: int = 1) -> NDArray[np.uint8]:
    """Real digits ``(count, channels, side, side)``, cropped around their middle; channels are different digits."""
    images = load_dataset("mnist-mini", None).train[: count * channels, 0]
    start = (28 - side) // 2
    cropped = images[:, start : start + side, start : start + side]
    return np.ascontiguousarray(cropped.reshape(count, channels, side, side))


def half_with_noise(count: int) -> NDArray[np.uint8]:
    """Real digits ``(count, 1, 28, 28)``, the first half of them with a square of noise."""
    found = load_dataset("mnist-mini", None).test[:count].copy()
    noise = np.random.default_rng(0).integers(0, 256, (count // 2, 1, 9, 9)).astype(np.uint8)
    for number in range(count // 2):
        found[number, :, number : number + 9, 5:14] = noise[number] // (number % 4 + 1)
    return found


def dequantised(images: NDArray[np.uint8], seed: int = 0) -> Tensor:
    """Pixels plus uniform noise, float64, in [0, 256)."""
    return torch.from_numpy(images + np.random.default_rng(seed).random(images.shape))


def glow(
    side: int = 8,
    channels: int = 1,
    *,
    pixels: PixelTransform = "affine",
    linear: str = "self-normalizing",
    steps: int = 2,
    scale: float = 0.05,
    place: bool = False,
) -> Flow:
    """A Glow initialised on real digits whose every parameter is then moved at random; evaluation mode, float32.

    Side 8 has one level, side 16 two and a split prior between them.
    """
    architecture = GlowArchitecture.model_validate(
        {
            "channels": channels,
            "height": side,
            "width": side,
            "levels": depth(side, side),
            "steps": steps,
            "hidden": 16,
            "linear": linear,
            "pixel_transform": pixels,
            "place": place,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = build_flow(architecture)
    images = real_images(64, side, channels)
    if isinstance(flow.pixels, MarginalPixels):
        flow.pixels.fit(images)
    flow.eval()
    flow.initialize(dequantised(images).float())
    randomise(flow, scale)
    return flow


def flat_latents(flow: Flow, x: Tensor) -> Tensor:
    """All latents of all scales, ``(N, D)``."""
    return torch.cat([latent.flatten(1) for latent in flow(x).latents], dim=1)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the manifest of an artifact after ``change`` has had its way with the document."""
    path = folder / FILE
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def sign_again(folder: Path) -> None:
    """Give the manifest the digests of the files as they are now, as someone who knows the format would."""

    def change(document: dict[str, Any]) -> None:
        for name in (WEIGHTS, CALIBRATION, PINNED):
            document["files"][name] = sha256_file(folder / name)
        document["log_dets"]["weights_sha256"] = document["files"][WEIGHTS]

    edit_manifest(folder, change)


def training_loss(flow: Flow, y: Tensor, log_det: Tensor, reconstruction_weight: float) -> Loss:
    """The loss of a training step with the paper's fixed multiplier."""
    channels, height, width = y.shape[1:]
    config = TrainingConfig(reconstruction_weight=reconstruction_weight)
    return SelfNormalizingObjective(flow, (channels, height, width), config).loss(flow, y, log_det, step=0)


def frozen_glow(
    side: int, channels: int, pixels: PixelTransform, engine: EngineName = "torch"
) -> tuple[Flow, FrozenFlow, FlowEngine]:
    """A random Glow, the same frozen, and an engine that runs it."""
    flow = glow(side, channels, pixels=pixels)
    frozen = freeze(flow, (channels, side, side))
    return flow, frozen, open_engine(frozen, EngineOptions(engine))


class CountedCalls(TorchDispatchMode):
    """Names of the operations that run, in forward and backward alike."""

    CUBIC = ("linalg", "inverse", "det", "lu_", "solve", "cholesky", "qr", "svd", "eig", "ormqr", "matrix_exp")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))

    @property
    def cubic(self) -> list[str]:
        """Those that factorise, invert or take determinants."""
        found = [name for name in self.names if any(part in name for part in self.CUBIC)]
        return [name for name in found if "detach" not in name and "elu" not in name]


def transformed(frozen: FrozenFlow, x: Tensor) -> NDArray[np.float64]:
    """What an engine takes: dequantised images after the pixel transform."""
    y: NDArray[np.float64] = frozen.pixels(x)[0].detach().numpy()
    return y


def scores_of(engine: Engine, frozen: FrozenFlow, x: Tensor) -> Tensor:
    """Log-likelihoods of dequantised images, ``(N,)``."""
    return torch.from_numpy(run_flow(engine, frozen, x.numpy()).terms().sum((1, 2)))


def images_back(
    engine: FlowEngine, frozen: FrozenFlow, scales: list[NDArray[np.float64]], inverse: Inverse = "exact"
) -> Tensor:
    """Dequantised images of latents."""
    return frozen.pixels.inverse(torch.from_numpy(engine.inverse(scales, inverse)))[0]


def bulk_plan(**given: Any) -> BulkPlan:
    """A plan of four images, but for what is given."""
    usual = {"model": "digits:1", "weights_sha256": "", "dataset": "d", "source_digest": "", "alpha": 0.05, "count": 4}
    return BulkPlan.model_validate(usual | given)
