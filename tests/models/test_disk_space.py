"""A disk that takes no writes: one translation of its errors, and a reserve that large writes leave free."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from safetensors import SafetensorError
from torch import nn
from torch.optim import SGD

from snf_models.disk import (
    RESERVE,
    folder_bytes,
    folder_problem,
    new_folder,
    require_room,
    storage_error,
    storage_errors,
    usable_bytes,
    write_atomically,
)
from snf_models.errors import ErrorKind, StorageFull, StorageReadOnly
from snf_models.pipeline.checkpoint import TrainingState, save_checkpoint
from tests.support.disks import MIB, Disk

GIB = 2**30


@pytest.mark.parametrize(
    ("number", "slug"),
    [
        (errno.ENOSPC, "storage-full"),
        (errno.EDQUOT, "storage-full"),
        (errno.EROFS, "storage-read-only"),
        (errno.EIO, None),
        (errno.ENOENT, None),
    ],
)
def test_errors_of_the_system(number: int, slug: str | None, tmp_path: Path) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    problem = storage_error(error)
    assert (problem.slug if problem else None) == slug
    if problem is not None:
        assert problem.kind is ErrorKind.NO_SPACE
        assert str(tmp_path) not in problem.detail, "callers of the service see no paths"
        assert os.strerror(number) in problem.detail
        with pytest.raises(type(problem)), storage_errors():
            raise error
    else:
        with pytest.raises(OSError) as caught, storage_errors():  # noqa: PT011
            raise error
        assert caught.value is error


def test_a_refused_access_counts_where_the_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "home" / "file"))
    assert storage_error(refused) is None, "a file of another user in a folder of one's own"
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    assert isinstance(storage_error(refused), StorageReadOnly)
    assert storage_error(PermissionError(errno.EACCES, "Permission denied")) is None
    (tmp_path / "secret").write_text("of another user")
    unreadable = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret"))
    assert isinstance(storage_error(unreadable), StorageReadOnly), "it can be read, so it was to be written"
    monkeypatch.setattr(os, "access", lambda _path, mode: mode == os.F_OK)
    assert storage_error(unreadable) is None


def test_what_safetensors_raises_on_a_full_disk() -> None:
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert isinstance(storage_error(full), StorageFull)
    assert storage_error(SafetensorError("the header is too large")) is None
    assert storage_error(RuntimeError("(os error 28)")) is None


def test_tables(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "table.db")) as table:
        table.execute("pragma page_size = 512")
        table.execute("create table words (word text)")
        table.execute("pragma max_page_count = 3")
        with pytest.raises(StorageFull, match="the table cannot grow"), storage_errors():
            table.execute("insert into words values (?)", ["a" * 10_000])
        table.execute("pragma query_only = on")
        with pytest.raises(StorageReadOnly, match="the table cannot be changed"), storage_errors():
            table.execute("delete from words")
        with pytest.raises(sqlite3.OperationalError, match="no such table"), storage_errors():
            table.execute("select * from texts")


def test_a_table_in_a_folder_that_cannot_be_written() -> None:
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
    assert isinstance(storage_error(error), StorageReadOnly)


def test_the_size_of_a_folder_whose_files_are_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("weights", "folder/card", "doomed"):
        (tmp_path / name).write_bytes(b"1234")
    stat = Path.lstat

    def remove_first(path: Path) -> os.stat_result:
        if path.name == "doomed":
            path.unlink()
        return stat(path)

    monkeypatch.setattr(Path, "lstat", remove_first)
    assert folder_bytes(tmp_path) == 8
    assert folder_bytes(tmp_path / "missing") == 0


def test_the_reserve_is_a_quarter_of_a_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, total=100 * GIB, free=RESERVE + 100)
    missing = tmp_path / "not" / "there"
    assert usable_bytes(missing) == 100
    require_room(missing, 100)
    with pytest.raises(StorageFull, match="101 bytes are needed, 100 bytes of the disk may be used"):
        require_room(missing, 101)
    disk = Disk(monkeypatch, total=64 * MIB, free=20 * MIB)
    assert usable_bytes(missing) == 4 * MIB
    disk.free = 0
    assert usable_bytes(missing) == 0


def test_large_writes_leave_the_reserve_to_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, total=100 * GIB, free=RESERVE)
    with pytest.raises(StorageFull, match="the disk is full"), new_folder(tmp_path / "a" / "model"):
        pytest.fail("it was begun")
    Disk(monkeypatch, total=100 * GIB, free=RESERVE + 100)
    with pytest.raises(StorageFull, match="101 bytes are needed"), new_folder(tmp_path / "a" / "model", 101):
        pytest.fail("it was begun")
    layer = nn.Linear(100, 100)
    state = TrainingState(1, 1.0, None, None, "digest", finished=True)
    with pytest.raises(StorageFull, match="40400 bytes are needed"):
        save_checkpoint(tmp_path / "checkpoints", state, {"averaged": layer}, SGD(layer.parameters()))
    assert list(tmp_path.iterdir()) == []
    write_atomically(tmp_path / "aliases.json", b"{}")


def test_folders_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    assert folder_problem(tmp_path / "new" / "home", writes=True) is None
    for path in (file, file / "home"):
        assert folder_problem(path, writes=False) == f"expected a folder, got {path}: {file} is a file"
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    assert folder_problem(tmp_path, writes=False) is None
    problem = folder_problem(tmp_path / "home", writes=True)
    assert problem == f"expected a folder that can be written, got {tmp_path / 'home'}: this user has no right to"
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert "expected a folder that can be read" in str(folder_problem(tmp_path, writes=False))
