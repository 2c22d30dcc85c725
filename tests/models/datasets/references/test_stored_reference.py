"""Datasets by reference in the store of datasets: what an inspection adds, and that it gives what an upload gives."""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from snf_client.schemas.training import ImageOptions
from snf_models.datasets import DatasetStore, Source, count_images, dataset_names
from snf_models.datasets.image_source import ReferencedImages, StoredImages, open_source
from snf_models.datasets.references import EncodedImage, ReferencedFiles
from snf_models.errors import DatasetNotFound, DatasetRefused, DatasetTaken, DatasetUnfit, ImageError
from snf_models.locations.location import Location
from snf_runtime.images.preprocessing import Preprocessing
from tests.support.referenced import FORMS, Form, NamedFile, digits, parquet_of, put, refer_to

GREY = Preprocessing(channels=1, height=28, width=28)
FILES = digits(60)


@pytest.fixture
def lots(tmp_path: Path) -> Location:
    return Location((tmp_path / "lots").as_uri())


def uploaded(store: DatasetStore, folder: Path, names: list[str], files: list[NamedFile]) -> None:
    folder.mkdir()
    sources = []
    for name, (file, content) in zip(names, files, strict=True):
        (folder / file).write_bytes(content)
        sources.append(Source(folder / file, name))
    store.create("uploaded", sources)


@pytest.mark.parametrize("form", FORMS)
def test_an_inspected_reference_gives_what_an_upload_gives(
    store: DatasetStore, lots: Location, tmp_path: Path, form: Form
) -> None:
    names = put(lots, form, FILES)
    refer_to(store, "referred", lots, inspect=True)
    uploaded(store, tmp_path / "files", names, FILES)

    ours, theirs = store.report("referred"), store.report("uploaded")
    same = {"name", "created", "ignored", "notes"}
    assert ours.model_dump(exclude=same) == theirs.model_dump(exclude=same)
    prepared, expected = (store.load(name, ImageOptions()) for name in ("referred", "uploaded"))
    assert prepared.digest == expected.digest
    np.testing.assert_array_equal(prepared.train, expected.train)
    by_id, others = (list(StoredImages(store, name, GREY).read(0, 60)) for name in ("referred", "uploaded"))
    assert [name for name, _ in by_id] == [name for name, _ in others] == names
    assert not list((store.root / "referred").rglob("originals*"))
    assert store.contact_sheet("referred").read_bytes() == store.contact_sheet("uploaded").read_bytes()
    few = StoredImages(store, "referred", GREY, "path", [3, 4, 40, 59])
    assert [name for name, _ in few.read(0, 4)] == [sorted(names)[place] for place in (3, 4, 40, 59)]


def test_without_inspection_only_scoring_takes_it(store: DatasetStore, lots: Location) -> None:
    put(lots, "folder", FILES)
    refer_to(store, "referred", lots)

    record = store.reference("referred")
    assert store.names() == ["referred"]
    assert "referred" in dataset_names(None, store)
    assert record.images == 60
    assert count_images("referred", None, store) == 60
    assert isinstance(open_source("referred", None, store, GREY), ReferencedImages)
    for call in (store.report, store.contact_sheet, lambda name: store.load(name, ImageOptions())):
        with pytest.raises(DatasetUnfit, match="only jobs of type score take it"):
            call("referred")
    with pytest.raises(DatasetTaken):
        refer_to(store, "referred", lots)
    store.delete("referred")
    assert store.names() == []
    assert len(list(lots.files())) == 60
    with pytest.raises(DatasetNotFound):
        store.reference("referred")


def test_an_inspection_that_fails_leaves_nothing(store: DatasetStore, lots: Location) -> None:
    put(lots, "folder", FILES[:9])
    with pytest.raises(DatasetRefused, match="9 different images can be used, at least 10 are needed"):
        refer_to(store, "referred", lots, inspect=True)
    assert list(store.root.iterdir()) == []


def test_files_that_change_after_the_inspection_are_named(store: DatasetStore, lots: Location) -> None:
    names = put(lots, "folder", FILES)
    lots.child("lot 0/broken.png").write(b"no image")
    refer_to(store, "referred", lots, inspect=True)
    assert [file.path for file in store.report("referred").rejected_files] == ["lot 0/broken.png"]
    lots.child(names[7]).write(FILES[8][1])

    images = list(StoredImages(store, "referred", GREY).read(0, 60))

    assert [name for name, image in images if isinstance(image, ImageError)] == [names[7]]
    with pytest.raises(DatasetUnfit, match=f"{names[7]} of referred: the file has changed or is gone"):
        store.load("referred", ImageOptions())


def test_images_are_prepared_in_the_order_in_which_they_are_stored(
    store: DatasetStore, lots: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = digits(200)
    contents = pa.array([content for _, content in files], pa.binary())
    names = [f"{place * 77 % 200:05d}.png" for place in range(200)]
    lots.child("a.parquet").write(parquet_of(pa.table({"image": contents, "name": names}), rows=200))
    refer_to(store, "shuffled", lots, inspect=True)
    ranges = []
    read = ReferencedFiles.read

    def counted(self: ReferencedFiles, start: int, stop: int) -> Generator[EncodedImage]:
        ranges.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(ReferencedFiles, "read", counted)
    prepared = store.load("shuffled", ImageOptions())
    monkeypatch.undo()

    assert len(ranges) <= 9
    uploaded(store, tmp_path / "files", [f"a.parquet/{name}" for name in names], files)
    assert prepared.digest == store.load("uploaded", ImageOptions()).digest
