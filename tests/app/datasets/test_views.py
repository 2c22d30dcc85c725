"""The list of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from snf_app.datasets.service import entries
from snf_models.datasets import DatasetStore
from snf_models.locations.location import Location
from tests.support.referenced import digits, put


def test_the_folder_of_datasets_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lots = Location((tmp_path / "lots").as_uri())
    put(lots, "folder", digits(12))
    store = DatasetStore(tmp_path / "datasets")
    for number in range(4):
        store.refer(f"lot-{number}", lots, inspect=number == 0)
    calls: list[DatasetStore] = []
    names = DatasetStore.names

    def counted(self: DatasetStore) -> list[str]:
        calls.append(self)
        return names(self)

    monkeypatch.setattr(DatasetStore, "names", counted)

    listed = entries(store, None)

    assert [entry.name for entry in listed if entry.origin == "reference"] == [f"lot-{number}" for number in range(4)]
    assert len(calls) == 1
