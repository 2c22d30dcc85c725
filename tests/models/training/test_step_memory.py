"""Memory of training steps: kept from step to step, given back where it is asked for and when a training ends."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from snf_models.pipeline import loop as step_memory
from tests.models.training.memory_process import SIDE
from tests.support.fork_server import fork_server
from tests.support.paths import IMPORT_PATH, ROOT

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ, reason="needs glibc, whose allocation is tuned"
)

BLOCK = 40 * 2**20
"""Bytes that glibc would map anew each time."""
BLOCKS = f"""
import resource
import numpy as np
from snf_models.pipeline.loop import kept_memory, release_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def cost():
    before = faults()
    np.ones({BLOCK}, dtype=np.uint8)
    return faults() - before

usual = [cost() for _ in range(3)]
with kept_memory():
    kept = [cost() for _ in range(3)]
held = resident()
release_memory()
print(usual[-1], kept[-1], held - resident(), cost())
"""


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in step_memory.VARIABLES}
    return kept | {"PYTHONPATH": IMPORT_PATH}


def of_blocks(**variables: str) -> list[int]:
    """Return the numbers that a new process prints: glibc reads its variables at the start."""
    command = [sys.executable, "-c", BLOCKS]
    given = environment() | {"NUMPY_MADVISE_HUGEPAGE": "0"} | variables  # a huge page is one fault
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=given, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return [int(number) for number in answer.stdout.split()]


@pytest.mark.usefixtures("unmeasured_processes")
def test_memory_is_kept_for_the_next_block_and_given_back_when_it_is_released() -> None:
    usual, kept, given_back, after = of_blocks()
    assert kept < usual / 2, "the pages are those of the block before"
    assert given_back > 0.9 * BLOCK
    assert after > 0.9 * usual, "as it was before"


@pytest.mark.usefixtures("unmeasured_processes")
def test_steps_of_a_training_use_the_memory_of_earlier_ones_which_it_gives_back(tmp_path: Path) -> None:
    """It holds two matrices with an average, a gradient and two moments each; one step may need a new block."""
    command = [sys.executable, "-m", "tests.models.training.memory_process"]
    with (tmp_path / "printed").open("wb") as output:
        process = fork_server().popen(command, stdout=output, env=environment(), cwd=ROOT)
    code, printed = process.wait(120), (tmp_path / "printed").read_text()
    assert code == 0, printed
    in_a_step, left = map(int, printed.split())
    matrix = 4 * SIDE**2
    assert in_a_step < matrix / os.sysconf("SC_PAGESIZE")
    assert left < 4 * matrix


def test_settings_of_the_environment_are_left_as_they_are() -> None:
    usual, kept, *_ = of_blocks(MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept == usual
