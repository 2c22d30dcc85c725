"""Uploads that do not fit into the quota, or onto the disk, are refused and leave nothing."""

from pathlib import Path
from typing import Any

import pytest

from snf_models.datasets import DatasetStore
from snf_models.errors import ErrorKind, StorageFull
from tests.models.datasets.upload_files import pngs, source, tarred, zipped
from tests.support.disks import MIB, Disk

GOOD = pngs(12)


@pytest.mark.parametrize("quota", [100, 5000], ids=["before", "while writing"])
def test_the_quota(quota: int, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets", quota=quota)
    with pytest.raises(StorageFull, match="of the quota") as caught:
        store.create("digits", [source(tmp_path / "uploads", tarred(GOOD, "xz"))])
    assert (caught.value.kind, caught.value.slug) == (ErrorKind.NO_SPACE, "storage-full")
    assert list(store.root.iterdir()) == []


def test_the_disk_must_keep_its_reserve(store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, total=64 * MIB, free=16 * MIB)
    with pytest.raises(StorageFull, match="of the disk"):
        store.create("digits", [source(tmp_path / "uploads", zipped(GOOD))])


def test_a_disk_that_fills_up(store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snf_models.datasets.store._contact_sheet", full)
    with pytest.raises(StorageFull, match="No space left"):
        store.create("digits", [source(tmp_path / "uploads", zipped(GOOD))])
    assert list(store.root.iterdir()) == []
