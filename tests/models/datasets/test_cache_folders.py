"""Caches of pixels that another process removes, or makes anew, at the worst moment."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import DatasetStore, load_dataset
from snf_models.datasets import prepared as module
from snf_models.datasets.prepared import KEPT, hold, make_room
from tests.models.datasets.upload_files import npz, source

LOCK = "record.json"


def new_cache(cache: Path) -> Path:
    cache.mkdir()
    (cache / LOCK).write_text("{}")
    return cache


def before_the_lock(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, between the opening of a file and its lock."""
    lock, left = fcntl.flock, [happens]

    def flock(descriptor: int, operation: int) -> None:
        while left:
            left.pop()()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def remove(cache: Path, *, anew: bool) -> None:
    cache.rename(cache.with_name(".removed"))
    if anew:
        new_cache(cache)


@pytest.mark.parametrize("anew", [False, True])
def test_a_cache_that_was_removed_before_its_lock_is_not_held(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = new_cache(tmp_path / "cache")
    before_the_lock(monkeypatch, lambda: remove(cache, anew=anew))
    assert hold(cache / LOCK) is None
    lock = hold(cache / LOCK)
    assert (lock is not None) is anew
    if lock is not None:
        os.close(lock)


@pytest.mark.parametrize("anew", [False, True])
def test_a_cache_that_another_process_removed_is_not_removed_again(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = [new_cache(tmp_path / f"{number}") for number in range(KEPT)]
    for age, cache in enumerate(caches):
        os.utime(cache / LOCK, (age, age))
    oldest = caches[0]
    before_the_lock(monkeypatch, lambda: remove(oldest, anew=anew))
    make_room(tmp_path, LOCK, lambda: None)
    assert oldest.exists() is anew
    assert caches[1].exists() is not anew, "one goes where none has gone"
    assert all(cache.exists() for cache in caches[2:])


def test_a_cache_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DatasetStore(tmp_path / "datasets")
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    store.create("noise", [source(tmp_path / "uploads", npz(images=images))])
    calls = 0

    def evicted_once(lock: Path) -> int | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            module.shutil.rmtree(lock.parent)
        return hold(lock)

    monkeypatch.setattr(module, "hold", evicted_once)
    dataset = load_dataset("noise", None, store, TrainingConfig())
    assert (calls, len(dataset.train)) == (3, 12)
