"""A training in a process whose memory is measured: ``python -m tests.models.training.memory_process``."""

import gc
import resource
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.dense import SelfNormalizingDense
from snf_models.bijections.pixels import AffinePixels
from snf_models.datasets import Dataset
from snf_models.errors import Interrupted
from snf_models.flows.flow import Flow, Level
from snf_models.pipeline.loop import release_memory
from snf_models.pipeline.run import train

SIDE = 3072
"""Rows of a matrix, which glibc would map anew each time."""


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Print the fewest faults of a step of a training that has gone on for some steps, and the bytes it leaves."""
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)
    flow = Flow(AffinePixels(), [Level([SelfNormalizingDense(SIDE)], squeeze=False)])
    moments: list[int] = []

    def stop() -> bool:
        moments.append(faults())
        if len(moments) == 7:
            raise Interrupted("no checkpoint, which takes as long as the steps")
        return False

    dataset = Dataset("random", images, images, images, images, "random")
    gc.collect()
    release_memory()
    before = resident()
    config = TrainingConfig(max_steps=100, batch_size=50, validations=1, pixel_transform="affine")
    with tempfile.TemporaryDirectory() as folder, suppress(Interrupted):
        train(dataset, flow, config, Path(folder), observe=lambda _event: None, should_stop=stop)
    gc.collect()
    release_memory()
    left = resident() - before
    print(min(after - earlier for earlier, after in pairwise(moments[2:-1])), left)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
