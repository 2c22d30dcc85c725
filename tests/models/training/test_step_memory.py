"""Memory of training steps: kept from step to step, given back where it is asked for and when a training ends."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from models.training import step_memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ, reason="needs glibc, whose allocation is tuned"
)

MEASURES = """
import gc, resource, sys, tempfile
from pathlib import Path
import numpy as np
import torch
from models.training.step_memory import kept_memory, release_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
"""
BLOCK = 40 * 2**20
"""Bytes that glibc would map anew each time."""
BLOCKS = f"""
def cost():
    before = faults()
    torch.ones({BLOCK}, dtype=torch.uint8)
    return faults() - before

usual = [cost() for _ in range(3)]
with kept_memory():
    kept = [cost() for _ in range(3)]
held = resident()
release_memory()
print(usual[-1], kept[-1], held - resident(), cost())
"""
SIDE = 3072
TRAINING = f"""
from models.bijections.dense import SelfNormalizingDense
from models.bijections.pixels import AffinePixels
from models.datasets import Dataset
from models.flows.flow import Flow, Level
from models.training.config import TrainingConfig
from models.training.interrupted import Interrupted
from models.training.run import train

images = np.random.default_rng(0).integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)
flow = Flow(AffinePixels(), [Level([SelfNormalizingDense({SIDE})], squeeze=False)])
moments = []

def stop():
    moments.append(faults())
    return len(moments) == 8

dataset = Dataset("random", images, images, images, images, "random")
gc.collect()
release_memory()
before = resident()
with tempfile.TemporaryDirectory() as folder:
    try:
        config = TrainingConfig(max_steps=100, batch_size=50, validations=1, pixel_transform="affine")
        train(dataset, flow, config, Path(folder), observe=lambda event: None, should_stop=stop)
    except Interrupted:
        pass
gc.collect()
release_memory()
print(min(after - earlier for earlier, after in zip(moments[2:-2], moments[3:-1])), resident() - before)
"""


def measured(code: str, **variables: str) -> list[int]:
    """Return the numbers that a program of its own prints."""
    environment = {name: value for name, value in os.environ.items() if name not in step_memory.VARIABLES} | variables
    command = [sys.executable, "-c", MEASURES + code]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 0, answer.stderr
    return [int(number) for number in answer.stdout.split()]


@pytest.mark.usefixtures("unmeasured_processes")
def test_memory_is_kept_for_the_next_block_and_given_back_when_it_is_released() -> None:
    usual, kept, given_back, after = measured(BLOCKS)
    assert kept < usual / 2, "the pages are those of the block before"
    assert given_back > 0.9 * BLOCK
    assert after > 0.9 * usual, "as it was before"


@pytest.mark.usefixtures("unmeasured_processes")
def test_steps_of_a_training_use_the_memory_of_earlier_ones_which_it_gives_back() -> None:
    """It holds two matrices with an average, a gradient and two moments each; one step may need a new block."""
    matrix = 4 * SIDE**2
    in_a_step, left = measured(TRAINING)
    assert in_a_step < matrix / os.sysconf("SC_PAGESIZE")
    assert left < 4 * matrix


def test_settings_of_the_environment_are_left_as_they_are() -> None:
    usual, kept, *_ = measured(BLOCKS, MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == usual
