"""Trainings of the paper's Glows on a GPU, and scores by it beside those by the CPU.

``SNF_DATA_DIR=... python -m benchmarks.gpu [--rows 'mnist*'] [--minutes 10] [--precision auto]``

Each row trains a preset for some minutes of steps and validations. It has steps a second without validations, and bits
per dimension of each validation over wall time. Then test images are scored by the GPU and by the engine of the CPU:
images a second after a first pass, and the largest relative difference of a log-likelihood. Nothing else should use the
GPU. ``--device cpu`` tries the program where there is none.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.needs import data_dir, end
from benchmarks.speed.machine import cores, describe
from snf_models.bijections.devices import find_device
from snf_models.datasets import Dataset, load_dataset
from snf_models.disk import write_atomically
from snf_models.errors import DeviceNotFound
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.pipeline.loop import Trainer
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.frozen import FrozenFlow, freeze
from snf_models.scoring.open_density import open_engine
from snf_models.scoring.options import EngineOptions
from snf_models.training.optimizer import training_precision
from snf_runtime.scoring.density import Engine
from snf_runtime.scoring.evidence import run_flow
from snf_runtime.scoring.pixel_density import content_noise

RESULTS = Path(__file__).parent / "results"
ROWS = {"mnist": "snf-glow-2l-16k", "cifar10": "snf-glow-3l-32k"}
"""Preset by dataset."""
LARGEST_DIFFERENCE = 1e-6
"""Largest relative difference of a log-likelihood by the GPU from that by the CPU."""


def measure(preset: str, dataset: Dataset, parameters: dict[str, Any], device: str, images: int) -> dict[str, Any]:
    """Train a preset on a device, score test images there and on the CPU, and return the figures."""
    config = find_preset(preset).config(parameters)
    architecture = find_preset(preset).architecture(dataset.image_shape, config.pixel_transform)
    assert not isinstance(architecture, FeatureArchitecture | HybridArchitecture)
    began, curve = time.monotonic(), []

    def observe(event: dict[str, Any]) -> None:
        if event["event"] == "validation":
            seconds = time.monotonic() - began
            curve.append({"seconds": seconds, "step": event["step"], "bits_per_dim": event["bits_per_dim"]})

    with tempfile.TemporaryDirectory() as folder:
        trained = Trainer(dataset, architecture, config, Path(folder), observe, device).run(lambda: False)
    frozen = freeze(trained.flow, dataset.image_shape)
    some = dataset.test[:images]
    x = some + np.concatenate([content_noise(image, "benchmark") for image in some])
    speed, scores = timed_scores(open_engine(frozen, EngineOptions("torch", device=device)), frozen, x)
    cpu_speed, cpu_scores = timed_scores(open_engine(frozen, EngineOptions()), frozen, x)
    return {
        "precision": training_precision(config, device),
        "batch_size": config.batch_size,
        "steps": trained.steps,
        "steps_per_second": trained.steps / (trained.elapsed_seconds - trained.validation_seconds),
        "curve": curve,
        "scored_per_second": speed,
        "cpu_scored_per_second": cpu_speed,
        "largest_relative_difference": float(np.abs((scores - cpu_scores) / cpu_scores).max()),
    }


def timed_scores(engine: Engine, frozen: FrozenFlow, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return images a second, and log-likelihoods in nats; a first pass is not timed."""
    run_flow(engine, frozen, x)
    began = time.perf_counter()
    log_likelihoods = run_flow(engine, frozen, x).terms().sum((1, 2))
    return len(x) / (time.perf_counter() - began), log_likelihoods


def main() -> None:
    """Measure the rows, print them and write them after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rows", default="*", help="which rows, such as 'mnist*'")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training a row")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--preset", help="in place of that of the row")
    parser.add_argument("--images", type=int, default=1000, help="test images that are scored")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json")
    arguments = parser.parse_args()
    chosen = [data for data in ROWS if fnmatch.fnmatch(data, arguments.rows)]
    folder = data_dir(*chosen)
    try:
        device = find_device(arguments.device)
    except DeviceNotFound as error:
        end(error.detail)
    name = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    parameters = {"max_minutes": arguments.minutes, "max_steps": 1_000_000, "precision": arguments.precision}
    rows = []
    for data in chosen:
        preset = arguments.preset or ROWS[data]
        figures = measure(preset, load_dataset(data, folder), parameters, arguments.device, arguments.images)
        row = {"data": data, "preset": preset, "device": name, **figures}
        rows.append(row)
        arguments.out.mkdir(parents=True, exist_ok=True)
        document = {"machine": describe(cores()), "rows": rows}
        write_atomically(arguments.out / "gpu.json", (json.dumps(document, indent=1) + "\n").encode())
        last = row["curve"][-1]
        print(
            f"{data}, {preset} on {name}: {row['steps_per_second']:.1f} steps/s in {row['precision']}, "
            f"{last['bits_per_dim']:.4f} bits/dim after {last['seconds']:.0f} s; scores {row['scored_per_second']:.0f} "
            f"images/s, the CPU {row['cpu_scored_per_second']:.0f}; relative difference "
            f"{row['largest_relative_difference']:.1e}, expected at most {LARGEST_DIFFERENCE:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
