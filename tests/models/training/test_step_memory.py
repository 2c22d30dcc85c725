"""Memory of training steps: kept from step to step, given back where it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from models.training import step_memory

BLOCK = 40 * 2**20
"""Bytes that glibc would map anew each time."""

STEPS = f"""
import resource
import torch
from models.training.step_memory import kept_memory, release_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({BLOCK}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
usual = [faults() for _ in range(3)]
with kept_memory():
    kept = [faults() for _ in range(3)]
held = resident()
release_memory()
print(usual[-1], kept[-1], held - resident(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc, whose allocation is changed")
def test_memory_of_a_step_is_kept_for_the_next_one_and_given_back_after_the_last() -> None:
    answer = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    usual, kept, given_back, after = map(int, answer.stdout.split())
    assert kept < usual / 2, "the pages are those of the block before"
    assert given_back > 0.9 * BLOCK
    assert after > 0.9 * usual, "as it was before"


def test_another_c_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_memory, "_function", {}.get)
    with step_memory.kept_memory():
        pass
    step_memory.release_memory()
