"""The list of datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from snf_app.datasets.service import DatasetForm, entries
from snf_app.http.errors import Problem
from snf_models.datasets import DatasetStore
from snf_models.errors import StorageFull
from snf_models.locations.location import Location
from tests.support.referenced import digits, put, refer_to

FORM = "multipart/form-data; boundary=together"


def part(disposition: str, content: bytes) -> bytes:
    return f"--together\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


FILE = b"\r\n--togeth\r\n--together-not\x00\r\r\n" * 50
BODY = part('name="file"; filename="lot 1/a.png"', FILE) + part('name="name"', b"cells") + b"--together--\r\n"


def nothing(_: object) -> None:
    """Hear and do nothing."""


def form(
    folder: Path, check_name: Callable[[str], None] = nothing, take: Callable[[int], None] = nothing
) -> DatasetForm:
    return DatasetForm(FORM, folder, check_name, take)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_pieces_of_any_size_make_the_same_files(tmp_path: Path, size: int) -> None:
    taken: list[int] = []
    names: list[str] = []
    made = form(tmp_path, names.append, taken.append)
    for start in range(0, len(BODY), size):
        made.write(BODY[start : start + size])
    name, (source,), near_duplicates = made.finish()
    assert (name, names) == ("cells", ["cells"])
    assert source.filename == "lot 1/a.png"
    assert near_duplicates == "keep"
    assert source.path.read_bytes() == FILE
    assert source.path.parent == tmp_path
    assert sum(taken) == len(FILE)


def test_what_a_filename_says_is_a_label_alone(tmp_path: Path) -> None:
    made = form(tmp_path / "in")
    (tmp_path / "in").mkdir()
    for filename in ("../outside.png", "/etc/passwd", "b\xffd.png"):
        made.write(part(f'name="file"; filename="{filename}"', b"x").replace("\xff".encode(), b"\xff"))
    made.write(part('name="name"', b"cells") + b"--together--\r\n")
    _, sources, _ = made.finish()
    assert [source.filename for source in sources] == ["../outside.png", "/etc/passwd", "b\udcffd.png"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["0", "1", "2"]


def test_near_duplicates_are_kept_or_dropped(tmp_path: Path) -> None:
    made = form(tmp_path)
    made.write(part('name="near_duplicates"', b"drop") + BODY)
    assert made.finish()[2] == "drop"
    for content, says in ((b"some", "expected 'keep' or 'drop', got 'some'"), (b"x" * 100, "at most 64 characters")):
        with pytest.raises(Problem) as found:
            form(tmp_path).write(part('name="near_duplicates"', content) + part('name="name"', b"cells"))
        assert [error.pointer for error in found.value.errors or []] == ["/body/near_duplicates"]
        assert says in str(found.value.detail)
    with pytest.raises(Problem, match="expected a single value, got two"):
        form(tmp_path).write(2 * part('name="near_duplicates"', b"drop") + part('name="name"', b"cells"))


def test_a_file_stops_where_there_is_no_room(tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise StorageFull("no room")

    with pytest.raises(StorageFull):
        form(tmp_path, take=full).write(BODY)
    assert (tmp_path / "0").stat().st_size == 0


@pytest.mark.parametrize("end", [10, 60, len(BODY) - 60, len(BODY) - 4])
def test_a_form_that_ends_early_is_malformed(tmp_path: Path, end: int) -> None:
    made = form(tmp_path)
    made.write(BODY[:end])
    with pytest.raises(Problem, match="last boundary"):
        made.finish()


def test_headers_have_a_limit(tmp_path: Path) -> None:
    with pytest.raises(Problem) as found:
        form(tmp_path).write(b"--together\r\nContent-Disposition: " + b"x" * 100_000)
    assert found.value.slug == "malformed-form"


def test_the_folder_of_datasets_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lots = Location((tmp_path / "lots").as_uri())
    put(lots, "folder", digits(12))
    store = DatasetStore(tmp_path / "datasets")
    for number in range(4):
        refer_to(store, f"lot-{number}", lots, inspect=number == 0)
    calls: list[DatasetStore] = []
    names = DatasetStore.names

    def counted(self: DatasetStore) -> list[str]:
        calls.append(self)
        return names(self)

    monkeypatch.setattr(DatasetStore, "names", counted)

    listed = entries(store, None)

    assert [entry.name for entry in listed if entry.origin == "reference"] == [f"lot-{number}" for number in range(4)]
    assert len(calls) == 1
