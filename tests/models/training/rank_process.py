"""One of several processes that train one flow: `rank_process FOLDER RANK SIZE RENDEZVOUS JSON`.

The JSON gives parameters of the run, and what happens in it: ``stop_at`` and ``die_at``, steps at which this process is
asked to stop and dies.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import models.training.loop
from models.datasets import Dataset
from models.training.config import TrainingConfig
from models.training.distributed import Ranks, joined
from models.training.loop import Interrupted, Trainer
from models.training.presets import PRESETS
from tests.models.helpers import real_images
from tests.support.paths import ROOT

Events = list[dict[str, Any]]


def digits() -> Dataset:
    """Real digits, 16x16."""
    images = real_images(300, 16)
    return Dataset("digits-16", images[:260], images[260:], images[260:], images[260:], "digest")


def train(folder: Path, rank: int, size: int, rendezvous: str, run: Mapping[str, Any]) -> Events:
    """Train as one of ``size`` processes and return what was observed, a report a step."""
    models.training.loop.REPORT_SECONDS = 0
    parameters = dict(run)
    stop_at, die_at = parameters.pop("stop_at", None), parameters.pop("die_at", None)
    config = TrainingConfig.model_validate(
        {"validations": 1, "validation_images": 20, "batch_size": 32, "precision": "float32"} | parameters
    )
    dataset = digits()
    architecture = PRESETS["snf-glow-tiny"].architecture(dataset.image_shape, config.pixel_transform)
    events: Events = []
    with nullcontext(Ranks.single()) if size == 1 else joined(rank, size, rendezvous) as ranks:
        trainer = Trainer(dataset, architecture, config, folder, events.append, ranks=ranks)

        def should_stop() -> bool:
            if trainer.state.step == die_at:
                os._exit(9)
            return trainer.state.step == stop_at

        try:
            trainer.take_steps(should_stop)
        except Interrupted as stopped:
            events.append({"event": "interrupted", "message": str(stopped)})
    return events


def train_in(folder: Path, size: int, runs: Sequence[Mapping[str, Any]], seconds: float = 120) -> tuple[list[int], Any]:
    """Train in ``size`` processes, of which each has its own run; return exit codes and events of each.

    Fails with ``subprocess.TimeoutExpired`` where one of them does not end.
    """
    with tempfile.TemporaryDirectory() as meeting:
        rendezvous = f"file://{meeting}/rendezvous"
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.models.training.rank_process"),
                    *(str(folder), str(rank), str(size), rendezvous, json.dumps(run)),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            for rank, run in enumerate(runs)
        ]
        try:
            said = [process.communicate(timeout=seconds)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
    return [process.returncode for process in processes], [json.loads(text) if text else [] for text in said]


if __name__ == "__main__":
    print(
        json.dumps(train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5])))
    )
