"""Processes look for cyclic garbage rarely and still find it, and their OpenMP threads sleep while they wait."""

import ctypes
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snf_worker import log_setup
from snf_worker.log_setup import MAX_LIKE, PERIOD_S, configure_logging
from snf_worker.process_setup import tune_process
from tests.support.paths import ROOT
from tests.support.service_settings import service_settings

CODE = """
import atexit, gc
from snf_worker.process_setup import GC_THRESHOLD, tune_process

class Node:
    alive = 0
    def __init__(self):
        self.itself = self
        Node.alive += 1
    def __del__(self):
        Node.alive -= 1

atexit.register(lambda: print(gc.get_freeze_count() > 1000))  # registered first, it runs last
tune_process()
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
from snf_worker.process_setup import give_back_memory

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


IN_CLI = "import snf_app.cli.main as cli\ncli._run = lambda: __import__('torch')\ncli.main()"
IN_ATTEMPT = "from snf_worker.attempts.run_attempt import prepare_process\nprepare_process()\nimport torch"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", IN_CLI],
        ["-c", IN_ATTEMPT],
        ["-m", "snf_worker.sandbox.process", "tests.worker.support.limited_child:use_torch"],
        ["-m", "snf_worker.process_setup", "timeit", "-n1", "-r1", "import torch"],
    ],
    ids=["command line", "attempt", "sandbox", "service and worker"],
)
def test_openmp_threads_sleep_while_they_wait(arguments: list[str], tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    variables |= {"OMP_DISPLAY_ENV": "TRUE", "SNF_HOME": str(tmp_path)}
    order = {"limits": {"memory_bytes": 2**34, "cpu_s": 60, "wall_s": 60}, "order": None}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=variables,
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_spin_briefly(given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr("atexit.register", lambda *_: None)
    tune_process()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


FORGED = "/v1/models/x\n2026-01-01 [info] all is well\x1b[2J\u202egnp.exe\u2028\x85"


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root, shown = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", root.handlers)  # which are those of pytest again at the end
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("sys.stderr", shown)
    configure_logging(service_settings(tmp_path), "service")
    yield shown
    for handler in root.handlers:
        handler.close()


def test_a_path_forges_no_line(screen: io.StringIO) -> None:
    log = logging.getLogger("app.test")
    log.info("refused %s", FORGED)
    try:
        raise RuntimeError(FORGED)
    except RuntimeError:
        log.exception("failed")
    text = screen.getvalue()
    assert "/v1/models/x\\x0a2026-01-01 [info] all is well\\x1b[2J\\u202egnp.exe\\u2028\\x85" in text
    assert not set(text) & set("\x1b\u202e\u2028\x85")
    # In a traceback lines are as they are.
    assert sum(line.startswith("2026-01-01 [info]") for line in text.splitlines()) <= 1


def test_equal_lines_are_bounded_and_counted(
    screen: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, now = logging.getLogger("app.test"), 1000.0
    monkeypatch.setattr(log_setup.time, "monotonic", lambda: now)
    for number in range(5 * MAX_LIKE):
        log.info("refused %d", number)
    log.info("another line")
    now += PERIOD_S
    log.info("refused %d", -1)
    for lines in (
        screen.getvalue().splitlines(),
        (tmp_path / "logs" / "service.jsonl").read_text().splitlines(),
    ):
        assert sum("refused" in line for line in lines) == MAX_LIKE + 1
        assert sum("another line" in line for line in lines) == 1
    last = json.loads((tmp_path / "logs" / "service.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["left_out"]) == ("refused -1", 4 * MAX_LIKE)
