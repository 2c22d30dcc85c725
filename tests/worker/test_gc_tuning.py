"""A process that looks for cyclic garbage rarely still finds it, and ends without looking."""

import subprocess
import sys

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
