"""Time of ``snf train --preset snf-features`` in a process of its own, from its start to the registered model."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.features.cells import cells
from benchmarks.features.common import FeatureRun
from snf_models.features.backbones import DEFAULT_FOLDER

NAME = "fit"
IMAGES = 1250
"""A fifth is held out for statistics and calibration, so that 1,000 train."""
SIDE = 256


def measure(run: FeatureRun) -> None:
    """Train several times, print, write."""
    with tempfile.TemporaryDirectory(prefix="snf-fit-") as home:
        environment = os.environ | {
            "SNF_HOME": home,
            "SNF_BACKBONES": str(DEFAULT_FOLDER.resolve()),
            "SNF_TRAIN_THREADS": str(run.threads),
        }
        images = Path(home) / "cells.npy"
        np.save(images, enlarged_cells(run, run.some(IMAGES, 60))[:, 0])
        snf(environment, "datasets", "upload", "cells", str(images))
        images.unlink()
        runs = [training(environment, f"fit-{number}") for number in range(run.some(run.extras["rounds"], 1))]
    document = {
        "images": run.some(IMAGES, 60),
        "side": SIDE,
        "seconds": statistics.median(one["seconds"] for one in runs),
        "runs": runs,
    }
    run.write(NAME, document, report(document))
    print(report(document))


def enlarged_cells(run: FeatureRun, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return functional solar cells, enlarged to 256x256, uint8 ``(count, 1, 256, 256)``."""
    normal, _ = cells(run.data_dir / "elpv64.npz")
    return np.stack(
        [
            np.asarray(Image.fromarray(image[0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))[None]
            for image in normal[:count]
        ]
    )


def snf(environment: dict[str, str], *arguments: str) -> None:
    """Run a command of ``snf`` to its end."""
    subprocess.run([sys.executable, "-m", "snf_app.cli.main", *arguments], env=environment, check=True)


def training(environment: dict[str, str], name: str) -> dict[str, Any]:
    """Train once; return the seconds to the end of every part and of the whole process."""
    command = [
        sys.executable,
        "-m",
        "snf_app.cli.main",
        "train",
        "--data",
        "cells",
        "--preset",
        "snf-features",
        "--json",
    ]
    started = time.monotonic()
    parts: dict[str, float] = {}
    with subprocess.Popen([*command, "--name", name], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            parts[str(event.get("part") or event["event"])] = round(time.monotonic() - started, 2)
    if process.returncode:
        raise RuntimeError(f"snf train failed with exit code {process.returncode}")
    return {"seconds": round(time.monotonic() - started, 2), "end_of_part": parts}


def report(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Time to fit a feature model",
        "",
        f"`snf train --preset snf-features` on {document['images']:,} images of {SIDE}x{SIDE}, four fifths of which "
        "train, as a process: from its start to the registered model, calibration included.",
        "",
        f"Median of {len(document['runs'])} runs: {document['seconds']:.1f} s.",
        "",
        "| run | seconds | end of each part, seconds after the start |",
        "|---|---|---|",
    ]
    for number, one in enumerate(document["runs"], 1):
        ends = ", ".join(f"{part} {seconds:.1f}" for part, seconds in one["end_of_part"].items())
        lines.append(f"| {number} | {one['seconds']:.1f} | {ends} |")
    return "\n".join(lines) + "\n"
