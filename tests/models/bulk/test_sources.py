"""Sources of bulk scoring: datasets and files, read by range."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snf_models.datasets import DatasetStore, load_dataset
from snf_models.datasets.image_source import (
    ImageFiles,
    ImageSource,
    NamedImage,
    StoredImages,
    index_location,
    open_source,
)
from snf_models.errors import DatasetNotFound, DatasetUnfit, ImageError
from snf_models.locations.disk import DiskFile, FileEntry
from snf_models.locations.location import Location
from snf_runtime.images.codec import DecodedImage, Preprocessing, decode_image
from tests.models.datasets.upload_files import DIGITS, mixed, npz, pngs, source, zipped
from tests.support.referenced import digits, put

EXACT = Preprocessing(channels=1, height=28, width=28)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    folder = tmp_path_factory.mktemp("home")
    store = DatasetStore(folder / "datasets")
    store.create("digits", [source(folder / "uploads", zipped(pngs(40, folders=3)))])
    store.create("photos", [source(folder / "uploads", zipped(mixed()))])
    store.create("array", [source(folder / "uploads", npz(images=DIGITS[:20, 0]), "array.npz")])
    return store


def pixels(found: list[NamedImage]) -> list[bytes]:
    return [image.pixels.tobytes() for _, image in found if isinstance(image, DecodedImage)]


def in_ranges(images: ImageSource, size: int) -> list[NamedImage]:
    return [one for start in range(0, images.count, size) for one in images.read(start, start + size)]


def shown(found: list[NamedImage]) -> list[tuple[str, object]]:
    return [(path, image.slug if isinstance(image, ImageError) else image.pixels.tobytes()) for path, image in found]


@pytest.mark.parametrize("name", ["digits", "photos", "array", "mnist-mini"])
def test_ranges_make_the_whole(name: str, store: DatasetStore) -> None:
    images = open_source(name, None, store, EXACT)
    whole = list(images.read(0, images.count))
    assert len({path for path, _ in whole}) == len(whole) == images.count
    assert shown(in_ranges(images, 7)) == shown(whole)
    assert open_source(name, None, store, EXACT).digest == images.digest


def test_stored_images_are_those_that_were_uploaded(store: DatasetStore) -> None:
    wanted = pngs(40, folders=3)
    found = dict(StoredImages(store, "digits", EXACT).read(0, 40))
    assert found.keys() == wanted.keys()
    for path, data in wanted.items():
        image, alone = found[path], decode_image(data, EXACT)
        assert (image.pixels == alone.pixels).all()
        assert (image.format, image.source_size, image.converted) == (alone.format, alone.source_size, alone.converted)


def test_a_policy_is_that_of_the_model(store: DatasetStore) -> None:
    rgb = Preprocessing(channels=3, height=16, width=24, fit="pad", colour="rgb")
    found = list(StoredImages(store, "photos", rgb).read(0, 60))
    wanted = {path: decode_image(data, rgb).pixels for path, data in mixed().items()}
    assert len(pixels(found)) == 60
    for path, image in found:
        assert (image.pixels == wanted[path]).all()


def test_builtin_images_are_training_then_test(store: DatasetStore) -> None:
    images = open_source("mnist-mini", None, store, EXACT)
    found = list(images.read(0, images.count))
    dataset = load_dataset("mnist-mini", None)
    assert found[-1][0] == f"x_test/{len(dataset.test) - 1:02d}"
    assert pixels(found)[-len(dataset.test) :] == [image.tobytes() for image in dataset.test]
    learned = np.concatenate([dataset.train, dataset.statistics, dataset.calibration])
    assert sorted(pixels(found)[: len(learned)]) == sorted(image.tobytes() for image in learned)


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04 cut off", npz(other=DIGITS[:3, 0]), npz(x_train=DIGITS[:3, 0].astype(np.float32))]
)
def test_a_foreign_builtin_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(data)
    with pytest.raises(DatasetUnfit):
        open_source("mnist", tmp_path, None, EXACT)


def test_datasets_that_are_not_there(tmp_path: Path) -> None:
    for store in (None, DatasetStore(tmp_path / "none")):
        with pytest.raises(DatasetNotFound, match="mnist-mini"):
            open_source("nothing", None, store, EXACT)
    store = DatasetStore(tmp_path / "home")
    store.create("gone", [source(tmp_path / "uploads", zipped(pngs(12)))])
    images = StoredImages(store, "gone", EXACT)
    digest = images.digest
    store.delete("gone")
    with pytest.raises(DatasetNotFound):
        list(images.read(0, 1))
    store.create("gone", [source(tmp_path / "uploads", zipped(pngs(12, start=20)))])
    with pytest.raises(DatasetNotFound):
        list(images.read(0, 1))
    assert StoredImages(store, "gone", EXACT).digest != digest


def test_the_digest_of_files_tells_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = ImageFiles([path], EXACT).digest
    assert ImageFiles([path], EXACT).digest == before
    path.write_bytes(b"three")
    assert len({before, ImageFiles([path], EXACT).digest, ImageFiles([path, path], EXACT).digest}) == 3


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a\udcff.png"
    assert [name for name, _ in ImageFiles([path], EXACT).read(0, 1)] == [f"{tmp_path}/a\\xff.png"]


def test_an_index_is_of_the_files_by_which_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lots, cache = Location((tmp_path / "lots").as_uri()), tmp_path / "cache"
    names = put(lots, "folder", digits(3))
    listed = DiskFile.files

    def files(self: DiskFile) -> Iterator[FileEntry]:
        entries = list(listed(self))
        lots.child("later.png").write(b"added while the files are listed")
        return iter(entries)

    with monkeypatch.context() as patch:
        patch.setattr(DiskFile, "files", files)
        first = index_location(lots, cache)
    assert [name for name, _ in first.open(EXACT).read(0, 9)] == names
    paths = {first.index}
    for number in range(3):
        lots.child(f"{number}.png").write(b"x")
        paths.add(index_location(lots, cache).index)
    assert len(paths) == 4
    kept = set(cache.iterdir())
    assert index_location(lots, cache).index in kept
    assert len(kept) == 2


def test_an_index_that_is_used_is_not_deleted(tmp_path: Path) -> None:
    lots, cache = Location((tmp_path / "lots").as_uri()), tmp_path / "cache"
    names = put(lots, "folder", digits(3))

    def add(name: str) -> None:
        lots.child(name).write(b"x")
        index_location(lots, cache)

    index_location(lots, cache)
    add("later.png")
    lots.child("later.png").delete()
    running = index_location(lots, cache)
    images = running.open(EXACT)
    place = running.index.name.partition("-")[0]
    (cache / f"{place}-gone.sqlite").symlink_to("what another process deletes after the folder is listed")
    for number in range(3):
        add(f"{number}.png")
        assert [name for name, _ in images.read(0, 9)] == names
        assert len(list(cache.iterdir())) == 3

    index = running.index
    del running
    add("last.png")
    assert not index.exists()
