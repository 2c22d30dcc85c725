"""Identity and memory of this machine or container, and the memory limit of a training process."""

import os
from collections.abc import Iterator
from pathlib import Path

from snf_worker.runtime.devices import CPU
from snf_worker.settings import Settings

_SHARE = 0.8
"""Share of the memory for all trainings of this machine; service, broker and workers need the rest."""
_SMALLEST = 2 * 2**30
"""Smallest limit in bytes: PyTorch's libraries and threads alone come close to it."""
_RESERVE = 0.1
"""Share of the memory that an attempt leaves of what is free when it starts."""


def machine_id() -> str | None:
    """Return a text that changes at each start of this machine or container, or None on systems other than Linux."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The containers of a machine share its kernel.
        return f"{start} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def memory_of_this_machine(
    groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Return the bytes of memory of this machine, or of its container if smaller; None if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return min([total, *_limits(groups, membership)])


def training_memory(settings: Settings, device: str, workers: int, memory: int | None) -> int | None:
    """Return a training's memory limit in bytes, or None on a GPU, whose driver reserves terabytes of addresses."""
    if settings.train_memory_bytes is not None:
        return settings.train_memory_bytes
    if memory is None or device != CPU:
        return None
    return max(_SMALLEST, int(_SHARE * memory) // workers)


def attempt_memory(settings: Settings, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the limit in bytes of an attempt that starts now: the worker's, or less if memory is taken."""
    if settings.train_memory_bytes is None:
        return None
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:  # another system than Linux
        return settings.train_memory_bytes
    sizes = {name: 1024 * int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    free = int(sizes["MemAvailable"] - _RESERVE * sizes["MemTotal"])
    return min(settings.train_memory_bytes, max(_SMALLEST, free))


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
            base, name = groups / "memory", "memory.limit_in_bytes"  # control groups version 1
        else:
            continue
        group = base / path.lstrip("/")
        # The limits of all enclosing groups apply, too. In a container the path may be that of the host.
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdigit():
                yield int(text)
