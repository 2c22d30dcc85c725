"""Disks that are full or take no writes, as this process sees them."""

import os
import shutil
from typing import NamedTuple

import pytest

MIB = 2**20


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Disk:
    """The disk of every folder, as `shutil.disk_usage` tells of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
        self.total = total
        self.free = free
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(self.total, self.total - self.free, self.free))


def refuse_writes(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let all durable writes of this process fail with an error of the operating system."""

    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
