"""Train a shipped model again: ``SNF_DATA_DIR=... python -m snf_models.zoo mnist-snf-glow --work var/zoo``.

Architecture and settings are those of the file beside the model, ``mnist-snf-glow.json`` in this folder, which
``snf train --architecture`` takes, too. The budget is 45 minutes, of two threads unless ``--threads`` gives another
number. The command continues from the checkpoints in the work folder, and replaces the shipped artifact at the end.
With ``--calibrate`` the weights stay, and the shipped model gets a new calibration and a new card.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from snf_models.anomaly.calibrate import calibrate
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.artifacts.card import model_card
from snf_models.artifacts.files import CALIBRATION, CARD, seal
from snf_models.datasets import Dataset, load_dataset
from snf_models.errors import Interrupted
from snf_models.loading.trained import load_artifact
from snf_models.pipeline.architecture_file import ArchitectureFile, parse_architecture, read_architecture_file
from snf_models.pipeline.run import begun_config, train
from snf_models.registry.calibrations import save_calibration
from snf_models.registry.registry import ZOO
from snf_models.scoring.open_density import open_density

PRINT_SECONDS = 10.0


DATASETS = {"mnist-snf-glow": "mnist", "fashion-snf-glow": "fashion-mnist", "cifar10-snf-glow": "cifar10"}
"""The datasets of the shipped models, by model."""
MINUTES = 45.0
THREADS = 2


def main() -> int:
    """Train or recalibrate a shipped model; return 1 if the training was interrupted, else 0."""
    parser = argparse.ArgumentParser(prog="python -m snf_models.zoo", description=__doc__)
    parser.add_argument("name", choices=sorted(DATASETS))
    parser.add_argument("--work", type=Path, default=Path("var/zoo"), help="folder of checkpoints")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--calibrate", action="store_true", help="calibrate the shipped weights again")
    arguments = parser.parse_args()
    data_dir = os.environ.get("SNF_DATA_DIR")
    dataset = load_dataset(DATASETS[arguments.name], Path(data_dir) if data_dir else None)
    if arguments.calibrate:
        calibrate_again(ZOO / arguments.name / "1", dataset)
        return 0
    recipe, folder = recipe_of(arguments.name), arguments.work / arguments.name
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopped.append(received))
    try:
        artifact = train(
            dataset,
            recipe,
            begun_config(folder, recipe, {"max_minutes": MINUTES}),
            folder,
            observe=_Printer(),
            should_stop=lambda: bool(stopped),
            threads=arguments.threads,
        )
    except Interrupted as interruption:
        print(f"{interruption}; run the command again to continue")
        return 1
    target = ZOO / arguments.name / "1"
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(artifact, target)
    print(f"{arguments.name} is now {artifact}")
    return 0


def recipe_of(name: str) -> ArchitectureFile:
    """Return the recipe of a shipped model, from the file beside its folder."""
    return parse_architecture(read_architecture_file(ZOO / f"{name}.json"))


def calibrate_again(folder: Path, dataset: Dataset) -> None:
    """Replace calibration and card of the artifact in ``folder``; exit if ``dataset`` is another one."""
    artifact = load_artifact(folder)
    manifest = artifact.manifest
    if dataset.digest != manifest.training.dataset_digest:
        raise SystemExit(f"the images of {manifest.training.dataset} are not those on which the model was trained")
    density = open_density(
        artifact.flow, manifest.architecture, manifest.log_dets.layers, manifest.log_dets.weights_sha256
    )
    reference = ReferenceImages(dataset.name, dataset.digest, dataset.statistics, dataset.calibration, dataset.folds)
    calibration, summary = calibrate(density, reference, artifact.pinned[0], _print_progress)
    manifest = manifest.model_copy(update={"calibration": summary})
    save_calibration(calibration, folder / CALIBRATION)
    (folder / CARD).write_text(model_card(manifest))
    seal(folder, manifest)
    print(f"\n{folder.parent.name}: {summary.calibration_images} images, smallest p {summary.smallest_p:.2g}")


def _print_progress(part: str, done: int, images: int) -> None:
    print(f"\r{part}: {done} of {images}", end="", flush=True)


class _Printer:
    """Observer that prints events, metrics at most every ten seconds."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] in {"metrics", "scoring"}:
            if time.monotonic() - self.last < PRINT_SECONDS:
                return
            self.last = time.monotonic()
        print(event, flush=True)


if __name__ == "__main__":
    sys.exit(main())
