"""The memory of a machine and of its control groups, and the share of it that a training gets."""

import os
import sys
from pathlib import Path

import pytest

from snf_worker.runtime.machine import attempt_memory, memory_of_this_machine, training_memory
from snf_worker.settings import Settings
from tests.worker.support.helpers import run_program

GIB = 2**30


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_the_smallest_limit_of_nested_groups_counts(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/outer/inner\n")
    inner = tmp_path / "groups/outer/inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("104857600\n")
    (inner.parent.parent / "memory.max").write_text("209715200\n")
    assert memory_of_this_machine(tmp_path / "groups", membership) == 104857600


def test_version_1_of_control_groups_and_a_path_of_the_host(tmp_path: Path, membership: Path) -> None:
    membership.write_text("5:cpu,cpuacct:/docker/a1\n4:memory:/docker/a1\n0::/docker/a1\n")
    group = tmp_path / "groups/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("104857600\n")
    assert memory_of_this_machine(tmp_path / "groups", membership) == 104857600


def test_without_control_groups_it_is_the_memory_of_the_machine(tmp_path: Path, membership: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_of_this_machine(tmp_path / "groups", membership) == total
    membership.write_text("4:memory:/\n")
    unlimited = tmp_path / "groups/memory"
    unlimited.mkdir(parents=True)
    (unlimited / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_of_this_machine(tmp_path / "groups", membership) == total


@pytest.mark.parametrize(
    ("changes", "device", "workers", "memory", "limit"),
    [
        ({}, "cpu", 1, 10 * GIB, 8 * GIB),
        ({}, "cpu", 2, 10 * GIB, 4 * GIB),
        ({}, "cpu", 1, GIB, 2 * GIB),
        ({}, "cuda:0", 1, 10 * GIB, None),
        ({}, "cpu", 1, None, None),
        ({"train_memory_bytes": 3 * GIB}, "cuda:0", 4, 10 * GIB, 3 * GIB),
    ],
)
def test_the_share_of_a_training(
    tmp_path: Path, changes: dict[str, int], device: str, workers: int, memory: int | None, limit: int | None
) -> None:
    assert training_memory(Settings(home=tmp_path, **changes), device, workers, memory) == limit


@pytest.mark.parametrize(
    ("own", "free", "limit"),
    [(8, 15, 8), (8, 6, 4), (8, 3, 2), (1, 3, 1), (None, 6, None)],
    ids=["its own", "what is free", "the smallest", "smaller", "none"],
)
def test_an_attempt_takes_no_memory_of_others(tmp_path: Path, own: int | None, free: int, limit: int | None) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {20 * 2**20} kB\nMemAvailable: {free * 2**20} kB\nHugePages_Total:       0\n")
    settings = Settings(home=tmp_path, train_memory_bytes=None if own is None else own * GIB)
    assert attempt_memory(settings, meminfo) == (None if limit is None else limit * GIB)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone has such a score")
def test_the_kernel_ends_a_process_of_a_job_and_its_children_first(settings: Settings) -> None:
    program = (
        "import subprocess\n"
        "from snf_worker.attempts.run_attempt import prepare_process\n"
        "prepare_process()\n"
        "print(open('/proc/self/oom_score_adj').read(), end='', flush=True)\n"
        "subprocess.run(['cat', '/proc/self/oom_score_adj'], check=True)"
    )
    assert run_program(settings, program).split() == ["900", "900"]
