"""Memory that this machine or its container has, and the share of it that a training process gets."""

import os
from collections.abc import Iterator
from pathlib import Path

from worker.runtime.devices import CPU
from worker.settings import Settings

_SHARE = 0.8
"""Of the memory, for all trainings of this machine; the rest is for service, broker and workers."""
_SMALLEST = 2 * 2**30
"""Below that PyTorch's own libraries and threads reach the limit, however small the job."""


def memory_of_this_machine(
    groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the bytes of memory that this process may use: of the machine, or of a control group that has less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return min([total, *_limits(groups, membership)])


def training_memory(settings: Settings, device: str, workers: int, memory: int | None) -> int | None:
    """Return the bytes that one training process may allocate, of a machine that runs so many workers.

    It is the setting where that is given, else 80 % of the memory, shared evenly by the workers, and at least 2 GiB.
    None, no limit, on a GPU, whose driver reserves addresses by the terabyte.
    """
    if settings.train_memory_bytes is not None:
        return settings.train_memory_bytes
    if memory is None or device != CPU:
        return None
    return max(_SMALLEST, int(_SHARE * memory) // workers)


def _limits(groups: Path, membership: Path) -> Iterator[int]:
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = groups / "memory", "memory.limit_in_bytes"  # version 1
        else:
            continue
        group = base / path.lstrip("/")
        # A group has no more than those that contain it. In a container the path may be that of the host.
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdigit():
                yield int(text)
