"""Story: a self-normalizing flow beside its twin with exact gradients, at equal steps and seed.

    python examples/stories/researcher.py [--steps 600]

Needs no service. Both train on the digits that come with the product. The table has test bits/dim, the time of a step,
the angle between the two gradients at the trained weights, and how far the served scores are from float64.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.coupling import CouplingNet
from snf_models.datasets import Dataset, load_dataset
from snf_models.flows.architecture import GlowArchitecture
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.loading.trained import load_artifact
from snf_models.pipeline.presets import find_preset
from snf_models.pipeline.run import train
from snf_models.scorer import load_model
from snf_models.training.objective import SelfNormalizingObjective, self_normalizing_layers
from snf_runtime.scoring.pixel_density import content_noise

LEARNED, EXACT = "snf-glow-tiny", "exact-glow-tiny"


@dataclass(frozen=True)
class Trained:
    """A model after its training: its files, and seconds of the median step."""

    folder: Path
    step_s: float

    @property
    def bits_per_dim(self) -> float:
        """Mean bits/dim of the test images."""
        evaluation = load_artifact(self.folder).manifest.evaluation
        assert evaluation is not None
        assert evaluation.test_bits_per_dim is not None
        return evaluation.test_bits_per_dim


def trained(dataset: Dataset, preset: str, config: TrainingConfig, folder: Path) -> Trained:
    """Train a preset, and measure the time between reports of the training."""
    reports: list[tuple[float, int]] = []

    def observe(event: dict[str, Any]) -> None:
        if event["event"] == "metrics":
            reports.append((time.perf_counter(), event["step"]))

    artifact = train(dataset, preset, config, folder, observe=observe, should_stop=lambda: False)
    steps = [(later - earlier) / (step - first) for (earlier, first), (later, step) in pairwise(reports)]
    return Trained(artifact, float(np.median(steps)))


def precise(artifact: Path) -> Flow:
    """Return the flow of an artifact in float64."""
    flow = load_artifact(artifact).flow.double()
    assert isinstance(flow, Flow)
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.autocast = None
    return flow


def angles(artifact: Path, images: Tensor) -> list[float]:
    """Return the angle in degrees between learned and exact gradient of each self-normalizing weight."""
    learned = precise(artifact).requires_grad_(True).train()
    architecture = load_artifact(artifact).manifest.architecture
    assert isinstance(architecture, GlowArchitecture)
    exact = build_flow(architecture.model_copy(update={"linear": "exact"})).double().train()
    state = learned.state_dict()
    exact.load_state_dict({name: value for name, value in state.items() if not name.endswith("inverse_weight")})
    y, log_det = (part.detach() for part in learned.pixels(images))
    for flow in (learned, exact):
        objective = SelfNormalizingObjective(flow, tuple(y.shape[1:]), TrainingConfig(reconstruction_weight=0.0))
        torch.autograd.backward(objective.loss(flow, y, log_det, step=0).value)
    names = {id(module): name for name, module in learned.named_modules()}
    found = []
    for layer in self_normalizing_layers(learned):
        pair = (layer.weight.grad, exact.get_parameter(f"{names[id(layer)]}.weight").grad)
        left, right = (gradient.flatten() / gradient.norm() for gradient in pair if gradient is not None)
        found.append(float(torch.rad2deg(2 * torch.atan2((left - right).norm(), (left + right).norm()))))
    return found


def score_checks(artifact: Path, images: NDArray[np.uint8]) -> tuple[float, int]:
    """Return the largest difference of served scores from float64, and how many are equal alone and in a batch."""
    scorer = load_model(artifact)
    noise = np.concatenate([content_noise(image, scorer.log_det_digest) for image in images])
    with torch.no_grad():
        reference = precise(artifact).requires_grad_(False).eval()(torch.from_numpy(images + noise)).log_likelihood
    together = np.array([score.log_likelihood for score in scorer.score(images)])
    alone = np.array([scorer.score(image[None])[0].log_likelihood for image in images])
    return float(np.abs(together - reference.numpy()).max()), int((alone == together).sum())


def main() -> None:
    """Train both, compare, print the table and check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="steps of each training (%(default)s)")
    parser.add_argument("--images", type=int, default=100, help="test images that are scored (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset("mnist-mini", None)
    images = np.asarray(dataset.test[: options.images])
    table = Table("preset", "test bits/dim", "ms a step", "largest angle", "scores from float64", "alone = in a batch")
    bits = {}
    with tempfile.TemporaryDirectory() as folder:
        for preset in (LEARNED, EXACT):
            config = find_preset(preset).config({"max_steps": options.steps, "seed": 0, "validations": 1})
            model = trained(dataset, preset, config, Path(folder) / preset)
            difference, equal = score_checks(model.folder, images)
            turned = angles(model.folder, torch.from_numpy(dataset.train[:64]).double() + 0.5)
            angle = f"{max(turned):.3f} degrees" if turned else "exact"
            bits[preset] = model.bits_per_dim
            table.add_row(
                preset, f"{bits[preset]:.4f}", f"{1000 * model.step_s:.0f}", angle, f"{difference:.1e} nats",
                f"{equal} of {len(images)}",
            )  # fmt: skip
            assert max(turned, default=0.0) < 1, "below one degree, as in the paper"
            assert difference < 1e-2
            assert equal == len(images)
    Console(width=120).print(table)
    assert abs(bits[LEARNED] - bits[EXACT]) < 0.05, "the same likelihood at equal steps"


if __name__ == "__main__":
    main()
