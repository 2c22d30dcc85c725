"""PatchCore (Roth et al. 2022) on our features, by the package ``anomalib`` in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.features.common import FeatureRun
from benchmarks.features.lookup import FeatureTable
from benchmarks.speed.peers import Environment, PeerUnavailable, peer_environment

Array = NDArray[np.float64]
SIDE = Path(__file__).parent / "anomalib_side.py"
ANOMALIB = Environment("anomalib", ("anomalib>=2.2", "torch", "torchvision"), ("anomalib.models.image.patchcore",))


def patchcore_scores(
    run: FeatureRun,
    table: FeatureTable,
    train: NDArray[np.intp],
    sets: Sequence[NDArray[np.intp]],
    coreset: float,
    seed: int,
) -> tuple[list[Array], dict[str, Any]]:
    """Return the scores of images by PatchCore, an array for each set, and what took how long.

    Args:
        run: The settings.
        table: The features.
        train: Rows of the training images.
        sets: Rows of the images to score.
        coreset: Share of the patches that are kept.
        seed: Seed of the coreset.

    Raises:
        PeerUnavailable: ``anomalib`` cannot be installed, or fails.
    """
    python = ANOMALIB.ready()
    with tempfile.TemporaryDirectory(prefix="snf-patchcore-") as folder:
        given, scores = Path(folder) / "given.npz", Path(folder) / "scores.npy"
        np.savez(given, train=table.places[train], tested=table.places[np.concatenate(sets)])
        done = subprocess.run(
            [str(python), str(SIDE), str(given), str(scores), str(coreset), str(seed), str(run.threads)],
            capture_output=True,
            text=True,
            env=peer_environment(Path(folder), run.threads),
            check=False,
        )
        if done.returncode:
            raise PeerUnavailable(" ".join(done.stderr.split())[-300:])
        about = json.loads(done.stdout.splitlines()[-1]) | ANOMALIB.versions()
        return np.split(np.load(scores), np.cumsum([len(rows) for rows in sets])[:-1]), about
