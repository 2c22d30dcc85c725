"""Models that are trained in a few steps, each of them once in a test run."""

from pathlib import Path

import pytest

from models.atomic_files import locked
from models.datasets import load_dataset
from models.training.run import train
from tests.models.helpers import QUICK


def barely_trained(factory: pytest.TempPathFactory, seed: int = 0, preset: str = "snf-glow-tiny") -> Path:
    """Return an artifact of real digits, trained by the first process of the test run that needs it.

    Args:
        factory: pytest's ``tmp_path_factory``.
        seed: Seed of the training: another one makes other weights.
        preset: Name of the preset.
    """
    run = factory.getbasetemp()
    if run.name.startswith("popen-"):  # each process of pytest-xdist has a folder in that of the run
        run = run.parent
    folder = run / f"{preset}-{seed}"
    with locked(folder):
        return train(  # which returns the artifact of the folder where there is one
            load_dataset("mnist-mini", None),
            preset,
            QUICK.model_copy(update={"seed": seed}),
            folder,
            observe=lambda _event: None,
            should_stop=lambda: False,
        )
