"""A process that looks for cyclic garbage rarely still finds it; large blocks of memory are given back."""

import ctypes
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

CODE = """
import atexit, gc
from worker.gc_tuning import GC_THRESHOLD, relax_gc

class Node:
    alive = 0
    def __init__(self):
        self.itself = self
        Node.alive += 1
    def __del__(self):
        Node.alive -= 1

atexit.register(lambda: print(gc.get_freeze_count() > 1000))  # registered first, it runs last
relax_gc()
most = 0
for _ in range(20 * GC_THRESHOLD):
    Node()
    most = max(most, Node.alive)
print(most < 2 * GC_THRESHOLD, gc.get_freeze_count())
"""


def test_cycles_are_freed_and_the_end_is_not_searched() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0", "True"]


BLOCKS = """
import ctypes
from worker.gc_tuning import give_back_memory

class Figures(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Figures, ctypes.c_void_p, [ctypes.c_void_p]
{tune}
libc.free(libc.malloc(20 * 2**20))  # glibc takes it for the size that is kept from now on
before = libc.mallinfo2().hblks
libc.malloc(4 * 2**20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
@pytest.mark.parametrize(("tune", "blocks"), [("", 0), ("give_back_memory()", 1)])
def test_large_blocks_are_memory_of_their_own(tune: str, blocks: int) -> None:
    command = [sys.executable, "-c", BLOCKS.format(tune=tune)]
    assert int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout) == blocks
