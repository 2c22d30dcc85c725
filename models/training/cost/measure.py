"""Measure this machine's throughput: ``python -m models.training.cost.measure PATH [--device cpu] [--threads N]``.

A few presets train some steps each, about ten seconds in all. They differ in what takes their time: starting
operations, moving bytes, computing in float32, computing in bfloat16. The rates are those that fit their steps best.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from models.atomic_files import write_atomically
from models.devices import find_device
from models.flows.architecture import FeatureArchitecture, HybridArchitecture, PixelArchitecture
from models.flows.build import build_flow
from models.training.config import TrainingConfig
from models.training.cost.flow_work import flow_work
from models.training.cost.operation_counter import Work
from models.training.cost.throughput import ASSUMED, Throughput, store_throughput
from models.training.objective import SelfNormalizingObjective
from models.training.optimizer import make_optimizer
from models.training.precision import compute_coupling_nets_in, lay_out_coupling_nets, training_precision
from models.training.presets import find_preset

NICENESS = 10
DISK_BYTES = 32 * 2**20
SECONDS = 0.5
"""Each preset trains for so long, and for two steps at least after one that warms up."""
RATES = ("flops_per_second", "low_precision_flops_per_second", "bytes_per_second", "calls_per_second")
PROBES: tuple[tuple[str, tuple[int, int, int], int, str], ...] = (
    ("snf-glow-tiny", (1, 28, 28), 4, "float32"),
    ("snf-conv-9l", (3, 32, 32), 32, "float32"),
    ("snf-fc-2l", (1, 28, 28), 256, "float32"),
    ("snf-glow-small", (1, 28, 28), 32, "float32"),
    ("snf-glow-small", (1, 28, 28), 32, "auto"),
)
"""Preset, image shape, images a step, precision."""


def measure_throughput(folder: Path, start_seconds: float, device: str = "cpu") -> Throughput:
    """Measure the speed by training steps of several flows, and of the disk by writing 32 MiB to ``folder``."""
    works, seconds = zip(*(_probe(*probe, device) for probe in PROBES), strict=True)
    rates = fitted_rates(works, seconds)
    began = time.perf_counter()
    write_atomically(folder / "probe", b"\0" * DISK_BYTES)
    disk = DISK_BYTES / (time.perf_counter() - began)
    (folder / "probe").unlink()
    return Throughput(**rates, disk_bytes_per_second=disk, start_seconds=start_seconds)


def fitted_rates(works: tuple[Work, ...], seconds: tuple[float, ...]) -> dict[str, float]:
    """Fit rates to times by non-negative least squares. Rates that no step shows are assumed and scaled alike."""
    amounts = np.array([astuple(work) for work in works]) / np.array(seconds)[:, None]
    scale = np.where(amounts.max(0) > 0, amounts.max(0), 1)
    costs = nnls(amounts / scale, np.ones(len(seconds)))[0] / scale
    assumed = np.array([getattr(ASSUMED, name) for name in RATES])
    shown = costs > 0
    factor = float(np.median(1 / costs[shown] / assumed[shown]))
    rates = np.where(shown, 1 / np.where(shown, costs, 1), factor * assumed)
    if not any(work.low_precision_flops for work in works):
        rates[1] = rates[0]
    return dict(zip(RATES, rates.tolist(), strict=True))


def _probe(preset: str, shape: tuple[int, int, int], images: int, precision: str, device: str) -> tuple[Work, float]:
    """Return the counted work of a training step and its shortest measured time in seconds."""
    config = find_preset(preset).config({"precision": precision, "pixel_transform": "affine"})
    architecture = find_preset(preset).architecture(shape, "affine")
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    arithmetic = training_precision(config, device)
    work = flow_work(architecture, config, images, images, arithmetic).step
    step = _training_step(architecture, config, images, arithmetic, device)
    step()
    times: list[float] = []
    while len(times) < 2 or sum(times) < SECONDS:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return work, min(times)


def _training_step(
    architecture: PixelArchitecture, config: TrainingConfig, images: int, arithmetic: str, device: str
) -> Callable[[], None]:
    place, shape = find_device(device), architecture.image_shape
    torch.manual_seed(0)
    flow = build_flow(architecture)
    pixels = torch.randint(256, (images, *shape)) + torch.rand(images, *shape)
    flow.initialize(pixels)
    compute_coupling_nets_in(flow, torch.bfloat16 if arithmetic == "bfloat16" else None)
    lay_out_coupling_nets(flow, arithmetic, device)
    flow.to(place).train()
    objective = SelfNormalizingObjective(flow, shape, config).to(place)
    optimizer = make_optimizer(flow, config, arithmetic)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    pixels = pixels.double().to(place)

    def step() -> None:
        with torch.no_grad():
            y, log_det = flow.pixels(pixels)
        loss = objective.loss(flow, y.float(), log_det.float(), 0)
        optimizer.zero_grad()
        torch.autograd.backward(loss.value)
        torch.nn.utils.clip_grad_norm_(flow.parameters(), config.gradient_clip)
        optimizer.step()
        if place.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    launched = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m models.training.cost.measure", description=__doc__)
    parser.add_argument("path", type=Path, help="file to write")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--launched", type=float, default=launched, help="time.monotonic() when this was started")
    arguments = parser.parse_args()
    start_seconds = max(0.0, launched - arguments.launched) or ASSUMED.start_seconds
    os.nice(NICENESS)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    store_throughput(arguments.path, measure_throughput(arguments.path.parent, start_seconds, arguments.device))


if __name__ == "__main__":
    main()
