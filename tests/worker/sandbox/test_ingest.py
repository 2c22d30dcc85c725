"""A dataset read by another process is the same dataset; over a limit it is refused, and nothing of it is left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from snf_models.datasets import DatasetStore, Source
from snf_models.errors import DatasetRefused, ErrorKind, ModelsError
from snf_worker.sandbox import uploads as module
from snf_worker.sandbox.process import ProcessLimits
from snf_worker.sandbox.uploads import ingest, refer
from snf_worker.settings import Settings
from tests.models.datasets.upload_files import mixed, npz, pngs, source, tarred, white_images, zipped
from tests.support.referenced import digits, put
from tests.support.s3 import S3Server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def read(settings: Settings, store: DatasetStore, data: bytes, filename: str = "a.zip") -> None:
    given = source(settings.home / "uploads", data, filename)
    ingest(store, "photos", [given], settings, lambda _done, _total: None)


@pytest.mark.usefixtures("new_sandboxes")
def test_it_is_the_dataset_that_this_process_would_make(settings: Settings, tmp_path: Path) -> None:
    files = [source(tmp_path / "uploads", data, name) for name, data in {**mixed(), "a.txt": b"text"}.items()]
    files.append(source(tmp_path / "uploads", tarred(pngs(20), "xz"), "not utf-8 \udcff.tar.xz"))
    files.append(Source(source(tmp_path / "uploads", b"x").path, "\udcff.png"))
    told: list[tuple[int, int]] = []
    here, there = DatasetStore(tmp_path / "here"), DatasetStore(settings.datasets_dir)
    expected = here.create("photos", files)
    ingest(there, "photos", files, settings, lambda *at: told.append(at))
    assert there.report("photos").model_copy(update={"created": expected.created}) == expected
    assert (there.root / "photos" / "originals.bin").read_bytes() == (
        here.root / "photos" / "originals.bin"
    ).read_bytes()
    packed = sum(file.path.stat().st_size for file in files)
    assert told == sorted(told)
    assert told[-1] == (packed, packed)


def test_who_leaves_when_all_is_read_leaves_no_dataset(settings: Settings, tmp_path: Path) -> None:
    store, given = DatasetStore(settings.datasets_dir), source(tmp_path / "uploads", zipped(pngs(20)))
    size = given.path.stat().st_size

    def leave_at_the_end(done: int, _total: int) -> None:
        if done == size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(store, "photos", [given], settings, leave_at_the_end)
    assert list(store.root.iterdir()) == []


def test_typed_errors_pass_through(settings: Settings) -> None:
    store = DatasetStore(settings.datasets_dir)
    for data, kind, slug in (
        (zipped(pngs(5)), ErrorKind.INVALID, "dataset-too-small"),
        (zipped(pngs(20))[:-30], ErrorKind.INVALID, "malformed-archive"),
        (b"Rar!\x1a\x07", ErrorKind.INVALID, "unsupported-archive"),
        (npz(a=[1], b=[2]), ErrorKind.INVALID, "malformed-array"),
    ):
        with pytest.raises(ModelsError) as caught:
            read(settings, store, data)
        assert (caught.value.kind, caught.value.slug) == (kind, slug)
    with pytest.raises(ModelsError, match="of the quota") as caught:
        read(settings, DatasetStore(settings.datasets_dir, quota=1000), zipped(pngs(20)))
    assert (caught.value.kind, caught.value.slug) == (ErrorKind.NO_SPACE, "storage-full")
    assert list(store.root.iterdir()) == []


LIMITS = {
    "processor time": (ProcessLimits(2**30, 1, 60), "more than 1 s of processor time"),
    "time": (ProcessLimits(2**30, 60, 1), "more than 1 s"),
    "memory": (ProcessLimits(100 * 2**20, 60, 60), "more than 104857600 bytes of memory"),
}


@pytest.mark.usefixtures("new_sandboxes")
@pytest.mark.parametrize("limit", LIMITS)
def test_over_a_limit_nothing_is_left(limit: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit == "memory" and sys.platform != "linux":
        pytest.skip("only Linux counts this memory")
    limits, text = LIMITS[limit]
    monkeypatch.setattr(module, "_limits", lambda _packed, _settings: limits)
    store = DatasetStore(settings.datasets_dir)
    with pytest.raises(DatasetRefused, match=text) as caught:
        read(settings, store, white_images(200))
    assert caught.value.slug == "reading-limit"
    assert caught.value.detail.startswith("reading a.zip takes ")
    assert list(store.root.iterdir()) == []


@pytest.mark.usefixtures("new_sandboxes")
def test_images_in_a_bucket_are_referred_to(s3: S3Server, settings: Settings, tmp_path: Path) -> None:
    bucket = s3.bucket("read-by-a-process")
    put(bucket, "tar", digits(30))
    store = DatasetStore(tmp_path / "datasets")
    refer(store, "lots", bucket, settings, lambda _done, _total: None)
    record = store.reference("lots")
    assert record is not None
    assert (record.images, record.rejected) == (30, 0)
    assert store.names() == ["lots"]
