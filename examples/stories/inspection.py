"""Story: from a folder of good images to verdicts of those that arrive in a folder, with the numbers at the end.

    python examples/stories/inspection.py [--images 1000] [--steps 200]

Needs a running service with a worker (`make up`); SNF_URL and SNF_API_KEY are its address and key. Good images train a
model. Then `watch_folder.py` watches a folder in which images arrive: most good, some of a noisy camera, some
broken. Images are clothes of Fashion-MNIST where SNF_DATA_DIR has them, else the digits that come with the product.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snf_client import Client

ROOT = Path(__file__).parents[2]
WATCH = ROOT / "examples" / "watch_folder.py"
DIGITS = ROOT / "models" / "snf_models" / "data" / "mnist-mini" / "images.npz"
NOISY, BROKEN = 0.1, 0.02
"""Shares of the arriving images."""
URL = os.environ.get("SNF_URL", "http://127.0.0.1:8000")
Pixels = NDArray[np.uint8]


def good_images() -> Pixels:
    """Return good images of 28x28 in random order."""
    clothes = Path(os.environ.get("SNF_DATA_DIR", "")) / "fashion_mnist.npz"
    with np.load(clothes if clothes.is_file() else DIGITS) as arrays:
        images = np.concatenate([arrays["x_train"], arrays["x_test"]])
    print(f"{len(images)} images of {'Fashion-MNIST' if clothes.is_file() else 'the digits in the box'}")
    return np.random.default_rng(0).permutation(images)


def train(client: Client, images: Pixels, name: str, steps: int) -> None:
    """Upload good images as a dataset, and train a model of the same name on them."""
    with tempfile.TemporaryDirectory() as folder:
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(Path(folder) / f"{number:05}.png")
        # As `snf datasets upload NAME FOLDER --url URL`.
        upload = [sys.executable, "-m", "snf_app.cli.main", "datasets", "upload", name, folder, "--url", URL]
        subprocess.run(upload, check=True, stdout=subprocess.DEVNULL)
    job = client.jobs.train(name, name, preset="snf-glow-tiny", parameters={"max_steps": steps}, promote=True)
    for event in client.jobs.events(job.id):
        if event.event == "validation":
            print(f"step {event.data['step']}: {event.data['bits_per_dim']:.3f} bits/dim", flush=True)
        elif event.event == "published":
            print(f"registered {event.data['ref']}")
    assert client.jobs.get(job.id).status == "succeeded"


def arrive(images: Pixels, incoming: Path) -> dict[str, str]:
    """Write images into a folder, one after the other, and return what each file is."""
    random = np.random.default_rng(1)
    kinds = random.choice(["good", "noisy", "broken"], len(images), p=[1 - NOISY - BROKEN, NOISY, BROKEN])
    for number, (pixels, kind) in enumerate(zip(images, kinds, strict=True)):
        image = pixels.copy()
        file = incoming / f"{number:05}-{kind}.png"
        if kind == "noisy":
            image = np.clip(image + random.normal(0, 40, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(file)
        if kind == "broken":
            file.write_bytes(file.read_bytes()[:100])
    return {f"{number:05}-{kind}.png": str(kind) for number, kind in enumerate(kinds)}


def watched(table: Path, count: int) -> list[dict[str, str]]:
    """Wait until the table has a row for each image, and return its rows."""
    deadline = time.monotonic() + 600
    while True:
        if table.is_file():
            with table.open(newline="") as file:
                rows = list(csv.DictReader(file))
            if len(rows) >= count:
                return rows
        assert time.monotonic() < deadline, f"expected {count} rows in 10 minutes"
        time.sleep(0.5)


def main() -> None:
    """Train, watch, and print and check the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images that arrive (%(default)s)")
    parser.add_argument("--train", type=int, default=2000, help="good images to learn from (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="steps of the training (%(default)s)")
    parser.add_argument("--name", default="inspection", help="name of the dataset and the model (%(default)s)")
    options = parser.parse_args()
    images = good_images()
    # Where there are too few, the last ones arrive more than once.
    learned = images[: min(options.train, len(images) * 2 // 3)]
    arriving = np.resize(images[len(learned) :], (options.images, *images.shape[1:]))
    with Client() as client, tempfile.TemporaryDirectory() as work:
        started = time.monotonic()
        train(client, learned, options.name, options.steps)
        print(f"trained after {time.monotonic() - started:.0f} s")
        incoming, table = Path(work) / "incoming", Path(work) / "scores.csv"
        incoming.mkdir()
        command = [sys.executable, WATCH, incoming, "--model", options.name, "--table", table, "--every", "0.3"]
        with subprocess.Popen([*command, "--anomalies", Path(work) / "strange"], stdout=subprocess.DEVNULL) as watcher:
            began = time.monotonic()
            kinds = arrive(arriving, incoming)
            rows = watched(table, len(kinds))
            seconds = time.monotonic() - began
            watcher.send_signal(signal.SIGINT)
        assert watcher.returncode == 0

    flagged = {row["file"] for row in rows if row["is_anomaly"] == "True"}
    refused = {row["file"] for row in rows if not row["log_likelihood"]}
    of = {kind: {file for file, one in kinds.items() if one == kind} for kind in ("good", "noisy", "broken")}
    alarms, found = len(flagged & of["good"]) / len(of["good"]), len(flagged & of["noisy"]) / len(of["noisy"])
    print(f"\n{len(rows) - len(flagged) - len(refused)} normal, {len(flagged)} anomalies, {len(refused)} not judged")
    print(f"false alarms {alarms:.1%} of {len(of['good'])}, found {found:.1%} of {len(of['noisy'])}")
    print(f"{seconds:.1f} s from the first file to the last row")
    assert {row["file"] for row in rows} == kinds.keys(), "every file has a row"
    assert len(rows) == options.images, "and none has two"
    assert refused == of["broken"]
    # With few images for the calibration, the rate may be several times the one that was asked for.
    assert alarms <= 0.1
    assert found >= 0.5


if __name__ == "__main__":
    main()
