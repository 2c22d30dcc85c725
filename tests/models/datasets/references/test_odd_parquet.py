"""Parquet files that are damaged, contradict themselves, or would take much memory."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snf_client.schemas.datasets import ReferenceRecord
from snf_models.bulk.work import score_range
from snf_models.datasets import parquet as parquet_rows
from snf_models.datasets.references import EncodedImage, ReferencedFiles, build_index
from snf_models.errors import DatasetRefused, ImageError, PartFailed
from snf_models.locations.location import Location
from snf_models.scorer import Scorer
from snf_runtime.images.batch import NamedImage
from tests.support.paths import ROOT
from tests.support.referenced import digits, parquet_of

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

I64 = b"\x16"
"""The byte before a number of 64 bits whose field is the next in the Thrift of Parquet files."""
DIGITS = [content for _, content in digits(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    """An empty folder of this machine."""
    return Location((tmp_path / "lots").as_uri())


@pytest.fixture
def index(tmp_path: Path, folder: Location) -> Callable[..., ReferenceRecord]:
    """Indexes the folder."""
    return lambda **options: build_index(folder, tmp_path / "reference.sqlite", **options)


def read(tmp_path: Path, start: int = 0, stop: int = 10**6) -> list[EncodedImage]:
    return list(ReferencedFiles(tmp_path / "reference.sqlite").read(start, stop))


def varint(number: int) -> bytes:
    """Return a number as the Thrift of Parquet files writes it."""
    number, out = 2 * number, bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def claiming(content: bytes, rows: int, claimed: int) -> bytes:
    """Return a Parquet file whose footer claims other numbers of rows and values than it has."""
    size = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - size], content[-8 - size : -8]
    footer = footer.replace(I64 + varint(rows), I64 + varint(claimed))
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def test_rows_that_a_row_group_lacks_are_errors_at_their_places(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snf_models.datasets.references.ERROR_ROWS", 30)
    table = pa.table({"image": pa.array(DIGITS[:10], pa.binary())})
    folder.child("0.parquet").write(claiming(parquet_of(table), 10, 100))
    folder.child("1.png").write(DIGITS[11])
    assert pq.read_metadata(io.BytesIO(folder.child("0.parquet").read())).num_rows == 100
    assert index().images == 101

    for start, stop in ((0, 101), (5, 50), (60, 101), (99, 100)):
        images = read(tmp_path, start, stop)
        assert [image.place for image in images] == list(range(start, min(stop, 101)))
        for place, name, content in images:
            if place < 10 or place == 100:
                assert content == (DIGITS[place] if place < 10 else DIGITS[11])
            else:
                assert isinstance(content, ImageError)
                assert "fewer than the 100 rows" in content.detail
                assert name == f"0.parquet/{place:06d}"


def test_metadata_that_contradicts_itself_is_rejected(folder: Location, index: Callable[..., ReferenceRecord]) -> None:
    content = parquet_of(pa.table({"image": pa.array(DIGITS[:10], pa.binary())}))
    folder.child("huge.parquet").write(claiming(content, 10, 2**40))
    size = int.from_bytes(content[-8:-4], "little")
    last = content.rindex(I64 + varint(10), 0, -8)  # the rows of the row group or the file, not its values
    assert last > len(content) - size
    folder.child("other.parquet").write(content[:last] + I64 + varint(11) + content[last + 2 :])
    folder.child("sound.png").write(DIGITS[0])

    record = index()

    assert record.images == 1
    reasons = {file.path: file.reason for file in record.rejected_files}
    assert "expected at most 1000000 rows in" in reasons["huge.parquet"]
    assert "row group 0 has 11 rows, but 10 images" in reasons["other.parquet"]


def test_a_part_with_another_number_of_images_fails(scorer: Scorer) -> None:
    class Short:
        count, digest = 10, "0"

        def read(self, start: int, stop: int) -> Iterator[NamedImage]:
            for place in range(start, stop - 1):
                yield str(place), ImageError("x", "x", "x")

    with pytest.raises(PartFailed, match="expected images 0 to 9, got 9 images"):
        score_range(scorer, Short(), 0, 10, alpha=None, should_stop=lambda: False)


def test_a_value_of_many_rows_is_held_once(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord]
) -> None:
    value = bytes(20_000_000)
    numbers = pa.array([0] * 500, pa.int32())
    for name, column in {
        "a": pa.DictionaryArray.from_arrays(numbers, pa.array([value])),
        "b": pa.StructArray.from_arrays([pa.DictionaryArray.from_arrays(numbers, pa.array([value]))], ["bytes"]),
    }.items():
        sink = pa.BufferOutputStream()
        table = pa.table({"image": column})
        pq.write_table(table, sink, store_schema=False, dictionary_pagesize_limit=2**28, compression="zstd")
        folder.child(f"{name}.parquet").write(sink.getvalue().to_pybytes())
    assert index().images == 1000
    assert grown_kib(tmp_path, 1000, len(value)) < 500_000


def test_values_that_differ_are_not_held_as_a_dictionary(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord]
) -> None:
    # Writers begin with a dictionary, whatever comes.
    images = [np.random.default_rng(place).bytes(100_000) for place in range(2000)]
    folder.child("a.parquet").write(parquet_of(pa.table({"image": pa.array(images, pa.binary())}), rows=2000))
    assert index().images == 2000
    # 200 MB in one row group, in pages of 1,024 images: four of them, and nine with a dictionary.
    assert grown_kib(tmp_path, 2000, 100_000) < 600_000


def grown_kib(tmp_path: Path, count: int, size: int) -> int:
    """Read so many images of this size in a process of its own, and return by how much its memory grew."""
    script = f"""
import resource
from pathlib import Path
from snf_models.datasets.references import ReferencedFiles
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
files = ReferencedFiles(Path({str(tmp_path / "reference.sqlite")!r}))
rows = sum(len(image.content) == {size} for image in files.read(0, {count}))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    # By another process: the peak of this one would be that of the program that replaces it.
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", outer], cwd=ROOT, capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == count
    return grown


def test_lists_of_rows_have_few_bytes_and_large_values_are_refused(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord]
) -> None:
    contents = [bytes([place]) * 7_000_000 for place in range(5)] + [bytes(64 * 2**20 + 1), None, b"x"]
    folder.child("a.parquet").write(parquet_of(pa.table({"image": pa.array(contents, pa.binary())})))
    index()
    images = read(tmp_path)
    found = [image.content.slug if isinstance(image.content, ImageError) else image.content for image in images]
    assert found == [*contents[:5], "file-too-large", "empty-image", b"x"]


def test_a_lack_of_memory_is_no_damage(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.child("a.parquet").write(parquet_of(pa.table({"image": pa.array(DIGITS, pa.binary())})))
    index()
    for lack in (pa.ArrowMemoryError("malloc of size 64 failed"), pa.lib.ArrowCancelled("cancelled")):

        def fail(*_args: object, lack: BaseException = lack) -> None:
            raise lack

        monkeypatch.setattr(parquet_rows, "_read_rows", fail)
        with pytest.raises(type(lack)):
            read(tmp_path)
        monkeypatch.setattr("snf_models.datasets.parquet.image_column", fail)
        with pytest.raises(type(lack)):
            index()
        monkeypatch.undo()


def test_names_are_below_those_of_their_files(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord]
) -> None:
    broken = pa.array([b"a\xff.png", b"x" * 5000, b"", None, b"d/n.png", b"c\x1b[31m\x00.png"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), len(broken), broken.buffers())
    for file in ("a.parquet", "b.parquet"):
        folder.child(file).write(parquet_of(pa.table({"image": pa.array(DIGITS[:6], pa.binary()), "name": names})))
    index()
    expected = ["a\\xff.png", "000001", "000002", "000003", "d/n.png", "c\\x1b[31m\\x00.png"]
    assert [image.name for image in read(tmp_path)] == [
        f"{file}/{name}" for file in ("a.parquet", "b.parquet") for name in expected
    ]


def test_columns_of_one_name_are_refused(
    tmp_path: Path, folder: Location, index: Callable[..., ReferenceRecord]
) -> None:
    image = pa.array(DIGITS[:3], pa.binary())
    twice = pa.Table.from_arrays([image, image], ["image", "image"])
    folder.child("a.parquet").write(parquet_of(twice))
    for options in ({}, {"column": "image"}):
        with pytest.raises(DatasetRefused, match="expected one column 'image', got 2"):
            index(**options)
    names = pa.array(["x", "y", "z"])
    folder.child("a.parquet").write(parquet_of(pa.Table.from_arrays([image, names, names], ["image", "name", "name"])))
    assert index().images == 3
    assert [image.name for image in read(tmp_path)] == [f"a.parquet/{row:06d}" for row in range(3)]


def test_a_foreign_table_beside_images_is_rejected_alone(
    folder: Location, index: Callable[..., ReferenceRecord]
) -> None:
    folder.child("labels.parquet").write(parquet_of(pa.table({"label": [1, 2]})))
    folder.child("a.parquet").write(parquet_of(pa.table({"image": pa.array(DIGITS, pa.binary())})))
    record = index()
    assert (record.images, record.rejected_by) == (20, {"unsuitable-column": 1})
    with pytest.raises(DatasetRefused, match=r"labels\.parquet: expected a column 'image', got label"):
        index(column="image")
