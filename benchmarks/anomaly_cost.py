"""What the anomaly score costs beside the likelihood, paired in one run.

    python -m benchmarks.anomaly_cost [--preset snf-glow-2l-16k] [--side 28] [--channels 1] [--rounds 7]

A flow of the preset's shape with random weights, calibrated on random images: time does not depend on either. The
likelihood alone, and likelihood with statistics and verdict, take turns on the same images. Reported is the ratio,
median and spread over the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.disk import write_atomically
from snf_models.flows.build import build_flow
from snf_models.pipeline.presets import find_preset
from snf_models.scoring.engines.open import open_engine
from snf_models.scoring.frozen import freeze
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.likelihood import score_images
from snf_runtime.scoring.pixel_density import PixelDensity

RESULT = Path(__file__).parent / "results" / "anomaly_cost.json"
REFERENCE = 40


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anomaly_cost")
    parser.add_argument("--preset", default="snf-glow-2l-16k")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    row = measure(arguments)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else []
    same = (row["preset"], row["shape"])
    rows = [one for one in known if (one["preset"], one["shape"]) != same] + [row]
    write_atomically(RESULT, json.dumps(rows, indent=1).encode())
    print(json.dumps(row, indent=1))
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the ratios for one model."""
    shape = (arguments.channels, arguments.side, arguments.side)
    preset = find_preset(arguments.preset)
    torch.manual_seed(0)
    flow = build_flow(preset.architecture(shape, "logit"))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (max(arguments.images, 2 * REFERENCE), *shape), dtype=np.uint8)
    flow.initialize(torch.from_numpy(images.astype(np.float64)))
    flow.eval()
    frozen = freeze(flow, shape)
    density = PixelDensity(open_engine(frozen), frozen, "digest")
    parts = ReferenceImages("random", "", images[:REFERENCE], images[REFERENCE : 2 * REFERENCE])
    calibration, _ = calibrate(density, parts, images[0], lambda *_: None)
    names, work = density.statistics, images[: arguments.images]

    def likelihood() -> None:
        for _, found in density.passes(work):
            found.terms()

    def verdict() -> None:
        scored = score_images(density, work)
        calibration.judge(Evidence.join([one.evidence for one in scored if one.evidence is not None]), names, shape[1:])

    times = in_turns({"likelihood": likelihood, "verdict": verdict}, arguments.rounds)
    return {
        "preset": arguments.preset,
        "shape": list(shape),
        "engine": density.engine_name,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "images": arguments.images,
        "images_per_second": arguments.images / float(np.median(times["likelihood"])),
        "verdict_over_likelihood": spread(times["verdict"], times["likelihood"]),
    }


def in_turns(work: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Do each once to warm up, then in turns; return the seconds of each round."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for one in work.values():
        one()
    for _ in range(rounds):
        for name, one in work.items():
            began = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - began)
    return times


def spread(times: list[float], reference: list[float]) -> dict[str, float]:
    """Return median, least and greatest ratio of paired rounds."""
    ratios = np.array(times) / np.array(reference)
    return {"median": float(np.median(ratios)), "least": float(ratios.min()), "greatest": float(ratios.max())}


if __name__ == "__main__":
    sys.exit(main())
