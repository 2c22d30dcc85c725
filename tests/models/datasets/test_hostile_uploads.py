"""Small uploads that promise or unpack to far more than they are: refused early, within a few MiB of memory."""

import io
import re
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from snf_models.datasets import DatasetStore
from snf_models.datasets.uploads import Limits, safe_path
from snf_models.errors import DatasetRefused, ImageError
from snf_runtime.images.codec import decode_npy, npy_header
from snf_runtime.images.preprocessing import Preprocessing
from tests.models.datasets.upload_files import (
    ARRAYS,
    DIGITS,
    MIB,
    TARS,
    headed,
    npy,
    npy_of,
    npz_of,
    pax,
    pngs,
    source,
    tarred,
    zip_of_entries,
)

MAX_HELD = 8 * MIB
LIMITS = Limits(ratio=20, ratio_from=2 * MIB)


def refused(store: DatasetStore, folder: Path, data: bytes, limits: Limits = LIMITS) -> tuple[DatasetRefused, int]:
    """The error of an upload, and the most memory in bytes that was held until it was raised."""
    given = source(folder / "uploads", data)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetRefused) as caught:
            store.create("digits", [given], limits=limits)
        return caught.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("data", "slug", "reason"), TARS.values(), ids=list(TARS))
def test_a_tar_is_refused_by_its_header(
    data: bytes, slug: str, reason: str, store: DatasetStore, tmp_path: Path
) -> None:
    error, held = refused(store, tmp_path, data)
    assert error.slug == slug
    assert re.search(reason, error.detail), error.detail
    assert held < MAX_HELD


@pytest.mark.parametrize("large", [False, True], ids=["zip", "zip64"])
@pytest.mark.parametrize("said", [None, 1], ids=["honest", "forged"])
def test_the_entries_of_a_zip_are_counted_before_they_are_parsed(
    said: int | None, large: bool, store: DatasetStore, tmp_path: Path
) -> None:
    # Files are recognised by their first bytes, before which a zip may have anything.
    data = b"PK\3\4" + zip_of_entries(15_000, said, large=large)
    error, held = refused(store, tmp_path, data, replace(LIMITS, files=1000))
    assert (error.slug, error.detail) == ("dataset-too-large", "upload.zip: more than 1000 files")
    assert held < 4 * MIB


@pytest.mark.parametrize(("data", "reason"), ARRAYS.values(), ids=list(ARRAYS))
def test_an_array_is_refused_by_its_header(data: bytes, reason: str, store: DatasetStore, tmp_path: Path) -> None:
    error, held = refused(store, tmp_path, data)
    assert error.slug == "malformed-array"
    assert reason in error.detail
    assert len(error.detail) < 500
    assert held < MAX_HELD


@pytest.mark.parametrize(("data", "reason"), ARRAYS.values(), ids=list(ARRAYS))
def test_an_array_to_score_is_refused_by_its_header(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_npy(data, Preprocessing(channels=1, height=28, width=28), 1024)
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize(
    "data",
    [
        npz_of(images=npy(DIGITS[:12, 0]), group=npy_of(f"({8 * MIB},)", bytes(16 * MIB), "'<i8'")),
        npz_of(images=npy_of("(1000000, 256, 256)", bytes(16 * MIB))),
        npz_of(images=npy_of("(2, 4096, 4096, 3)", bytes(16 * MIB))),
    ],
    ids=["groups", "many images", "large images"],
)
def test_what_an_array_unpacks_to_is_counted_piece_by_piece(data: bytes, store: DatasetStore, tmp_path: Path) -> None:
    error, held = refused(store, tmp_path, data)
    assert (error.slug, "times its" in error.detail) == ("dataset-too-large", True)
    assert held < MAX_HELD


def test_honest_headers_are_read(store: DatasetStore, tmp_path: Path) -> None:
    """Long names in every form of tar, the global header of ``git archive``, attributes of macOS."""
    long = {f"{'lot' * 30}/{'name' * 30}-{index}.png": data for index, data in enumerate(pngs(12).values())}
    attributes = {"comment": "0" * 40, "SCHILY.xattr.com.apple.quarantine": "x" * 4000}
    for index, data in enumerate(
        [
            tarred(long),
            headed(tarfile.XGLTYPE, pax(attributes)),
            headed(tarfile.XHDTYPE, pax(attributes)),
            _gnu(long),
        ]
    ):
        report = store.create(f"digits-{index}", [source(tmp_path / "uploads", data)])
        assert (report.images, report.rejected) == (12, 0)


def _gnu(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def test_the_header_leaves_the_file_at_the_data() -> None:
    for data in (npy(DIGITS[:2, 0]), npy_of("(2, 28, 28)", DIGITS[:2].tobytes(), padding=3000)):
        file = io.BytesIO(data)
        shape, fortran_order, dtype = npy_header(file)
        assert (shape, fortran_order, dtype) == ((2, 28, 28), False, "|u1")
        assert file.read() == DIGITS[:2].tobytes()


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u2028", "\x85", "\x1b", "\n"])
def test_names_that_reverse_text_or_forge_lines_are_refused(character: str) -> None:
    with pytest.raises(DatasetRefused, match="control characters, or characters that reverse text") as caught:
        safe_path(f"lot/gnp{character}exe.png")
    assert character not in caught.value.detail
