"""Datasets by reference: folders, tar archives and Parquet files, on this machine and on a real S3 server."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

from snf_client.schemas.datasets import ReferenceRecord
from snf_models.datasets.image_source import ReferencedImages
from snf_models.datasets.references import build_index, read_record
from snf_models.errors import DatasetNotFound, DatasetRefused, ImageError, LocationNotFound, LocationUnavailable
from snf_models.locations.location import Location
from snf_runtime.images.codec import Preprocessing, decode_image
from tests.support.ports import free_port
from tests.support.referenced import FORMS, Form, digits, parquet_of, put, tar_of
from tests.support.s3 import S3Server, faulty_server

GREY = Preprocessing(channels=1, height=28, width=28)
FILES = digits(60)


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty location."""
    if request.param == "file":
        return Location((tmp_path / "lots 1%").as_uri())
    server: S3Server = request.getfixturevalue("s3")
    return server.bucket(f"b{uuid4().hex}").child("lots 1%")


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    """An empty folder of this machine."""
    return Location((tmp_path / "lots").as_uri())


@pytest.fixture
def refer(tmp_path: Path) -> Callable[[Location], ReferencedImages]:
    """Indexes a location and returns its images."""

    def index(location: Location, **options: str) -> ReferencedImages:
        path = tmp_path / uuid4().hex / "reference.sqlite"
        build_index(location, path, column=options.get("column"))
        return ReferencedImages(path, GREY)

    return index


Refer = Callable[..., ReferencedImages]


def pixels(images: ReferencedImages, start: int = 0, stop: int | None = None) -> list[tuple[str, bytes | str]]:
    """Return names with pixels, or with the reasons why there are none."""
    return [
        (name, image.detail if isinstance(image, ImageError) else image.pixels.tobytes())
        for name, image in images.read(start, images.count if stop is None else stop)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_pixels_in_a_fixed_order(place: Location, form: Form, refer: Refer) -> None:
    names = put(place, form, FILES)
    images = refer(place)

    expected = [
        (name, decode_image(content, GREY).pixels.tobytes()) for name, (_, content) in zip(names, FILES, strict=True)
    ]
    assert images.count == len(FILES)
    assert pixels(images) == expected
    for start, stop in ((0, 1), (16, 18), (24, 51), (59, 60), (30, 30), (58, 99)):
        assert pixels(images, start, stop) == expected[start:stop]
    again = pickle.loads(pickle.dumps(images))
    assert pixels(again, 24, 27) == expected[24:27]


def test_one_file_is_a_dataset(place: Location, refer: Refer) -> None:
    put(place, "tar", FILES)
    images = refer(place.child("01.tar"))
    assert images.count == 25
    assert next(iter(images.read(0, 1)))[0] == "01.tar/00025.png"


def test_every_file_is_indexed_or_counted(folder: Location, tmp_path: Path) -> None:
    digit = FILES[0][1]
    members = [
        ("0001.png", digit),
        ("0001.seg.png", digit),
        ("0001.json", b"{}"),
        ("0001.cls", b"1"),
        ("../x.png", digit),
    ]
    for name, content in {
        "a.png": digit,
        "b.heic": b"no image, but judged as one",
        "notes.txt": b"",
        ".hidden.png": digit,
        "part-00000.parquet.crc": b"sum",
        "x.tar": tar_of(members),
        "y.tar.gz": b"\x1f\x8b",
        "z.parquet": b"no Parquet",
        "cut.tar": tar_of([("1.png", digit), ("2.png", digit)])[: 512 + 1024],
    }.items():
        folder.child(name).write(content)
    (Path(folder.path) / "broken.png").symlink_to("none")

    record = build_index(folder, tmp_path / "reference.sqlite")

    assert record == read_record(tmp_path / "reference.sqlite")
    assert record.images == 6  # a.png, b.heic, the checksum, two of x.tar, one of cut.tar
    assert record.files == {"image": 3, "tar": 2}
    assert record.ignored == 4
    reasons = {file.path: file.reason for file in record.rejected_files}
    assert reasons.keys() == {"x.tar/../x.png", "y.tar.gz", "z.parquet", "cut.tar", "broken.png"}
    assert "compressed" in reasons["y.tar.gz"]
    assert "1 images before that are kept" in reasons["cut.tar"]
    images = dict(ReferencedImages(tmp_path / "reference.sqlite", GREY).read(0, 6))
    assert [name for name, image in images.items() if isinstance(image, ImageError)] == [
        "b.heic",
        "part-00000.parquet.crc",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_changed_and_deleted_files_are_errors_and_never_other_pixels(place: Location, form: Form, refer: Refer) -> None:
    put(place, form, FILES)
    images = refer(place)
    before = pixels(images)
    entries = [entry.name for entry in place.files() if entry.size]
    changed, gone = place.child(entries[0]), place.child(entries[-1])
    content = changed.read()
    changed.write(content.replace(b"PNG", b"PNG") if form != "folder" else FILES[1][1])
    gone.delete()

    after = pixels(images)

    assert len(after) == len(before)
    different = [place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0][1] != pair[1][1]]
    lost = {"folder": [0, 59]}.get(form, [*range(25), *range(50, 60)])
    if place.scheme == "s3" and form != "folder":
        lost = [*range(50, 60)]  # the same bytes are the same version in an object store
    assert different == lost
    assert all("has changed or is gone" in str(after[place][1]) for place in different)


def test_a_damaged_row_group_is_an_error_of_its_images(folder: Location, refer: Refer) -> None:
    put(folder, "parquet", FILES)
    file = Path(folder.path) / "00.parquet"
    content = bytearray(file.read_bytes())
    content[300:3000] = os.urandom(2700)
    file.write_bytes(content)
    found = pixels(refer(folder))
    bad = [name for name, value in found if isinstance(value, str)]
    assert len(found) == 60
    assert len(bad) >= 1
    assert all(isinstance(value, bytes) for _, value in found[25:])


def test_parquet_columns_are_found_or_named(folder: Location, refer: Refer, tmp_path: Path) -> None:
    contents = [content for _, content in FILES[:3]]
    table = pa.table(
        {"left": pa.array(contents, pa.large_binary()), "right": pa.array([contents[1], None, b"x"], pa.binary())}
    )
    folder.child("a.parquet").write(parquet_of(table))

    with pytest.raises(DatasetRefused, match="expected a column with the bytes of images, got several: left, right"):
        refer(folder)
    with pytest.raises(DatasetRefused, match="expected a column 'middle', got left, right"):
        refer(folder, column="middle")
    assert [name for name, _ in pixels(refer(folder, column="left"))] == [f"a.parquet/{row:06d}" for row in range(3)]
    right = pixels(refer(folder, column="right"))
    assert [isinstance(value, bytes) for _, value in right] == [True, False, False]
    assert right[1][1] == "expected the bytes of an image, got an empty cell"

    folder.child("a.parquet").write(parquet_of(pa.table({"label": [1, 2]})))
    with pytest.raises(DatasetRefused, match="got none: label"):
        refer(folder)
    with pytest.raises(DatasetRefused, match="expected bytes in the column 'label', got int64"):
        refer(folder, column="label")


def test_a_location_without_images_is_refused_and_leaves_no_index(folder: Location, tmp_path: Path) -> None:
    path = tmp_path / "index" / "reference.sqlite"
    with pytest.raises(LocationNotFound):
        build_index(folder, path)
    folder.child("notes.txt").write(b"no image")
    with pytest.raises(DatasetRefused, match=r"there is no image at .*: 1 files are skipped by their names"):
        build_index(folder, path)
    assert list(path.parent.iterdir()) == []


def test_a_deleted_index_is_said(folder: Location, tmp_path: Path) -> None:
    put(folder, "folder", FILES)
    path = tmp_path / "reference.sqlite"
    build_index(folder, path)
    images = ReferencedImages(path, GREY)
    path.unlink()
    with pytest.raises(DatasetNotFound, match="deleted meanwhile"):
        list(images.read(0, 1))
    with pytest.raises(DatasetNotFound, match="cannot be read"):
        ReferencedImages(path, GREY)


def test_a_server_that_goes_down_is_no_property_of_the_images(
    s3: S3Server, refer: Refer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in FORMS:
        place = s3.bucket(f"b{uuid4().hex}")
        put(place, form, FILES[:10])
        images = refer(place)
        with monkeypatch.context() as patch:
            patch.setattr("snf_models.locations.object_store.MAX_RETRIES", 1)
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
            with pytest.raises(LocationUnavailable, match="no connection to the server can be made"):
                list(images.read(0, 10))


def test_many_small_images_take_few_requests(s3: S3Server, refer: Refer, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_server(s3, share=0) as (server, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        limits: tuple[tuple[Form, int], ...] = (("tar", 3), ("parquet", 40))
        for form, most in limits:
            place = s3.bucket(f"b{uuid4().hex}")
            put(place, form, FILES)
            images = refer(place)
            before = proxy.requests["GET"]
            assert len(pixels(images)) == 60
            assert proxy.requests["GET"] - before <= most, form


def test_the_digest_is_that_of_the_files_and_progress_ends_at_all_bytes(folder: Location, tmp_path: Path) -> None:
    put(folder, "tar", FILES)
    seen: list[tuple[int, int]] = []

    def digest() -> str:
        path = tmp_path / "reference.sqlite"
        record: ReferenceRecord = build_index(folder, path, progress=lambda done, total: seen.append((done, total)))
        return record.digest

    first = digest()
    total = sum(entry.size for entry in folder.files())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert digest() == first
    file = folder.child("00.tar")
    file.write(file.read())  # another time of change
    assert digest() != first
