"""Angles of the self normalizing gradients of trained convolutions to the exact ones, by the choice of the inverse r.

``SNF_DATA_DIR=... python -m benchmarks.convolution_gradients [--steps 300] [--side 16]``

Two trainings of ``snf-conv-9l`` on digits cut to their middle, the paper's objective, once without and once with the
reconstruction of white noise (``noise_reconstruction`` 1). Then for every convolution the angle between a gradient of
its kernel w and the exact one, in float64 on one batch, of the log-det alone and of the whole log-likelihood, for r

- paper: as trained by the paper's objective,
- newton-schulz: 2r - r * w * r from that same r,
- noise: as trained with white noise (of the other run, against the exact gradient of its own w),
- projection: the first run's r refreshed by the projection of T(w)^-1, exact by construction.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.needs import builtin_dir
from benchmarks.paper.angles import angle, exact_twin
from models.bijections.convolution import SelfNormalizingConv
from models.datasets import Dataset, Images, load_dataset
from models.flows.architecture import ConvolutionalArchitecture
from models.flows.flow import Flow, walk
from models.training.loop import Trainer
from models.training.objective import inverse_errors
from models.training.presets import find_preset
from snf_runtime.images.batch import stacked

RESULTS = Path(__file__).parent / "results"
PRESET = "snf-conv-9l"
Gradients = dict[str, Tensor]


def cropped(dataset: Dataset, side: int) -> Dataset:
    """Return the dataset with every image cut to its middle."""
    start = (dataset.image_shape[1] - side) // 2

    def cut(images: Images) -> Images:
        return np.ascontiguousarray(stacked(images)[:, :, start : start + side, start : start + side])

    return replace(
        dataset,
        train=cut(dataset.train),
        statistics=cut(dataset.statistics),
        calibration=cut(dataset.calibration),
        test=cut(dataset.test),
    )


def train(dataset: Dataset, arguments: argparse.Namespace, noise: float) -> Trainer:
    """Train the preset for a few hundred steps, warm-up included."""
    parameters = {
        "max_steps": arguments.steps,
        "warmup_steps": arguments.steps // 5,
        "seed": arguments.seed,
        "validations": 1,
        "noise_reconstruction": noise,
    }
    preset = find_preset(PRESET)
    architecture = preset.architecture(dataset.image_shape, "logit")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(dataset, architecture, preset.config(parameters), Path(folder), lambda _event: None)
        trainer.run(lambda: False)
    return trainer


def gradients(flow: Flow, x: Tensor) -> tuple[Gradients, Gradients]:
    """Return the gradients by every kernel w of the mean log-det and of the mean log-likelihood, by layer.

    In self normalizing layers both come halved, the mixture's share of w; an angle does not see it.
    """
    y, log_det = (part.detach() for part in flow.pixels(x))
    channels, height, width = y.shape[1:]
    steps = [step for _, steps, _ in walk(flow, (channels, height, width)) for step in steps]
    weights = {name: layer.get_parameter("weight") for name, layer, _ in steps if hasattr(layer, "weight")}
    whole = torch.autograd.grad(flow.forward_pixels(y, log_det).log_likelihood.mean(), list(weights.values()))
    alone = {}
    for name, layer, shape in steps:
        if name in weights:
            share = layer(torch.zeros(1, *shape, dtype=torch.float64))[1].mean()
            (alone[name],) = torch.autograd.grad(share, weights[name])
    return alone, dict(zip(weights, whole, strict=True))


def compare(learned: Flow, architecture: ConvolutionalArchitecture, x: Tensor) -> dict[str, dict[str, float]]:
    """Return the angles, in degrees, of the log-det's and of the whole gradient to the exact ones, by layer."""
    learned = learned.double().train()
    exact = exact_twin(architecture)
    state = {name: value for name, value in learned.state_dict().items() if not name.endswith("inverse_weight")}
    exact.load_state_dict(state)
    (alone, whole), (exact_alone, exact_whole) = gradients(learned, x), gradients(exact, x)
    return {
        name: {"log_det": angle(alone[name], exact_alone[name]), "whole": angle(whole[name], exact_whole[name])}
        for name in alone
    }


def variants(trainers: dict[str, Trainer]) -> dict[str, Flow]:
    """Return the trained flows with the r, and the way to use it, of every choice."""
    flows = {name: copy.deepcopy(trainers[name].flow).double() for name in ("paper", "noise")}
    flows["newton-schulz"], flows["projection"] = copy.deepcopy(flows["paper"]), copy.deepcopy(flows["paper"])
    shape = trainers["paper"].dataset.image_shape
    for _, steps, _ in walk(flows["projection"], shape):
        for _, layer, at in steps:
            if isinstance(layer, SelfNormalizingConv):
                layer.refresh_inverse(at)
    for module in flows["newton-schulz"].modules():
        if isinstance(module, SelfNormalizingConv):
            module.gradient = "newton-schulz"
    return {name: flows[name] for name in ("paper", "newton-schulz", "noise", "projection")}


def main() -> None:
    """Train twice, compare, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution_gradients", description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--side", type=int, default=16, help="images are cut to this side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of convolution_gradients.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = cropped(load_dataset(arguments.data, builtin_dir(arguments.data)), arguments.side)
    trainers = {name: train(dataset, arguments, noise) for name, noise in (("paper", 0.0), ("noise", 1.0))}
    architecture = find_preset(PRESET).architecture(dataset.image_shape, "logit")
    assert isinstance(architecture, ConvolutionalArchitecture)
    x = trainers["paper"].batches.batch(arguments.steps)
    flows = variants(trainers)
    found = {name: compare(flow, architecture, x) for name, flow in flows.items()}
    errors = {
        name: inverse_errors(flow, dataset.image_shape) for name, flow in flows.items() if name != "newton-schulz"
    }
    summary: dict[str, Any] = {
        "preset": PRESET,
        "dataset": arguments.data,
        "side": arguments.side,
        "config": trainers["paper"].config.model_dump(),
        "validation_bits_per_dim": {name: trainer.state.best_bits_per_dim for name, trainer in trainers.items()},
        "degrees": found,
        "inverse_errors": errors,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "convolution_gradients.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"degrees to the exact gradient of w, log-det / whole, after {arguments.steps} steps")
    print("layer".ljust(20) + "".join(name.rjust(20) for name in found))
    for layer in found["paper"]:
        cells = (f"{angles[layer]['log_det']:.4f} / {angles[layer]['whole']:.4f}" for angles in found.values())
        print(layer.ljust(20) + "".join(cell.rjust(20) for cell in cells))


if __name__ == "__main__":
    main()
