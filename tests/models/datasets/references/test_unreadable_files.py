"""Single files of a dataset by reference that cannot be named or read: the others are read all the same."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from snf_models.datasets.references import ReferencedFiles, build_index
from snf_models.errors import ImageError, LocationUnavailable
from snf_models.locations.disk import DiskFile, FileEntry
from snf_models.locations.location import Location
from tests.support.referenced import digits, parquet_of, tar_of

FILES = digits(12)


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    """A folder with an image file, a tar archive and a Parquet file."""
    folder = Location((tmp_path / "lots").as_uri())
    folder.child("a.png").write(FILES[0][1])
    folder.child("b.tar").write(tar_of(FILES))
    table = pa.table({"image": pa.array([content for _, content in FILES], pa.binary())})
    folder.child("c.parquet").write(parquet_of(table))
    folder.child("d.png").write(FILES[1][1])
    return folder


def test_names_that_cannot_be_used_are_rejected_and_listed(folder: Location, tmp_path: Path) -> None:
    for name in ("x\ny.png", "x\ny.tar", "x\ty.parquet"):
        (Path(folder.path) / name).write_bytes(b"x")
    record = build_index(folder, tmp_path / "reference.sqlite")
    assert record.images == 26
    assert record.rejected_by == {"unsafe-name": 3}
    assert [file.path for file in record.rejected_files] == ["x\\x09y.parquet", "x\\x0ay.png", "x\\x0ay.tar"]
    assert all("without control characters" in file.reason for file in record.rejected_files)
    assert len(list(ReferencedFiles(tmp_path / "reference.sqlite").read(0, 26))) == 26


def test_a_file_that_cannot_be_read_is_an_error_of_its_images(
    folder: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "reference.sqlite"
    build_index(folder, index)
    read = os.pread

    def pread(descriptor: int, size: int, start: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix in (".tar", ".parquet"):
            raise OSError(number, os.strerror(number))
        return read(descriptor, size, start)

    (Path(folder.path) / "a.png").unlink()
    (Path(folder.path) / "a.png").symlink_to("a.png")
    monkeypatch.setattr(os, "pread", pread)
    for number in (errno.EIO, errno.EACCES):
        images = list(ReferencedFiles(index).read(0, 26))
        assert [image.place for image in images] == list(range(26))
        reasons = [image.content.detail if isinstance(image.content, ImageError) else "" for image in images]
        assert "Too many levels of symbolic links" in reasons[0]
        assert all(os.strerror(number) in reason for reason in reasons[1:25])
        assert images[25].content == FILES[1][1]
    number = errno.ESTALE  # an outage is no property of an image
    with pytest.raises(LocationUnavailable):
        list(ReferencedFiles(index).read(0, 26))


@pytest.mark.parametrize("fault", ["gone", "unreadable"])
def test_an_archive_that_cannot_be_indexed_is_rejected_alone(
    folder: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    listed = DiskFile.files

    def files(self: DiskFile) -> Iterator[FileEntry]:
        entries = list(listed(self))
        for name in ("b.tar", "c.parquet"):
            path = Path(folder.path) / name
            path.unlink()
            if fault == "unreadable":
                path.symlink_to(name)
        return iter(entries)

    monkeypatch.setattr(DiskFile, "files", files)
    record = build_index(folder, tmp_path / "reference.sqlite")
    assert (record.images, record.files) == (2, {"image": 2})
    assert [file.path for file in record.rejected_files] == ["b.tar", "c.parquet"]
    reason = "there is nothing at" if fault == "gone" else "Too many levels of symbolic links"
    assert all(reason in file.reason for file in record.rejected_files)
    images = [image.content for image in ReferencedFiles(tmp_path / "reference.sqlite").read(0, 2)]
    assert images == [FILES[0][1], FILES[1][1]]
