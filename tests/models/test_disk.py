"""What is published survives a power failure: it is synced before it has its name, and all that leads to it after."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from torch import nn
from torch.optim import SGD

from snf_models.disk import (
    RESERVE,
    folder_bytes,
    folder_problem,
    locked,
    make_folder,
    new_folder,
    remove_leftovers,
    require_room,
    storage_error,
    storage_errors,
    usable_bytes,
    write_atomically,
)
from snf_models.errors import ErrorKind, StorageFull, StorageReadOnly
from snf_models.pipeline.checkpoint import TrainingState, save_checkpoint
from snf_models.registry.registry import Registry
from snf_models.scoring.cache import read_cached, write_cached
from snf_worker.keys import KeyFile
from tests.support.disks import MIB, Disk

Events = list[tuple[str, int]]


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What was synced, made and moved to its name, in this order, by inode."""
    events: Events = []
    fsync, mkdir, rename, replace = os.fsync, os.mkdir, os.rename, os.replace

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("synced", os.fstat(descriptor).st_ino))

    def make(path: Any, *args: Any, **options: Any) -> None:
        mkdir(path, *args, **options)
        events.append(("made", inode(Path(path))))

    def mover(move: Any) -> Any:
        def moved(source: Any, target: Any, **options: Any) -> None:
            events.append(("moved", inode(Path(source))))
            move(source, target, **options)

        return moved

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "mkdir", make)
    monkeypatch.setattr(os, "rename", mover(rename))
    monkeypatch.setattr(os, "replace", mover(replace))
    return events


def new_parents(path: Path, there: Path) -> Iterator[Path]:
    yield from (folder for folder in path.parents if folder.is_relative_to(there) and folder != there)


def assert_durable(path: Path, there: Path, events: Events) -> None:
    """Check the order of syncs of a published file or folder, where only ``there`` and what is above it existed."""
    at = events.index(("moved", inode(path)))
    for content in (path, *path.rglob("*")):
        assert ("synced", inode(content)) in events[:at], f"{content} has its name before it is on the disk"
    assert ("synced", inode(path.parent)) in events[at:], f"the name of {path} is not on the disk"
    for folder in new_parents(path, there):
        made = events.index(("made", inode(folder)))
        assert ("synced", inode(folder.parent)) in events[made:at], f"the new folder {folder} is not on the disk"


def test_a_new_folder_is_on_the_disk_with_all_folders_in_it_and_above_it(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a" / "b" / "c"
    with new_folder(path) as folder:
        (folder / "inner" / "innermost").mkdir(parents=True)
        (folder / "inner" / "innermost" / "file").write_text("content")
        (folder / "file").write_text("content")
    assert_durable(path, tmp_path, events)


def test_a_folder_that_is_replaced_is_there_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output error"), new_folder(path, replace=True) as folder:
            (folder / "new").write_text("new")
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "old"]
    with pytest.raises(FileExistsError), new_folder(path) as folder:
        (folder / "new").write_text("new")
    with new_folder(path, replace=True) as folder:
        (folder / "new").write_text("new")
        assert (path / "old").read_text() == "old"
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "new"]


def test_a_new_file_is_on_the_disk_with_all_folders_above_it(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"content")
    assert_durable(path, tmp_path, events)
    before = len(events)
    write_atomically(path, b"other content")
    assert [event for event, _ in events[before:]] == ["synced", "moved", "synced"], "nothing else was new"


def test_a_published_model_is_on_the_disk(tmp_path: Path, artifact: Path, events: Events) -> None:
    home = tmp_path / "home"
    version = Registry(home / "registry", zoo=tmp_path / "no-zoo").publish(artifact, "digits", promote=True)
    assert_durable(version.path, tmp_path, events)
    assert_durable(home / "registry" / "digits" / "aliases.json", tmp_path, events)


def test_a_key_is_on_the_disk_of_a_new_home(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "home" / "keys.json"
    KeyFile(path).create("bob", "read")
    assert_durable(path, tmp_path, events)


def test_the_folder_of_a_lock_is_on_the_disk(tmp_path: Path, events: Events) -> None:
    with locked(tmp_path / "a" / "b"):
        pass
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        made = events.index(("made", inode(folder)))
        assert ("synced", inode(folder.parent)) in events[made:]


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((FileExistsError, NotADirectoryError)):
            make_folder(path)


def test_what_killed_processes_left_over_is_removed_by_age_and_name(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".{name}.{number:032x}" for number, name in enumerate(("a.b", "a.b", "c")))
    kept = [tmp_path / name for name in ("a.b", ".a.b", f".a.b.{'0' * 31}", ".lock")]
    for path in (old, young, *kept):
        path.write_bytes(b"x")
    (other / "inner").mkdir(parents=True)
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path, 3600)
    assert not old.exists()
    assert young.exists()
    remove_leftovers(tmp_path, name="a.b")
    assert not young.exists()
    assert other.exists()
    remove_leftovers(tmp_path)
    assert not other.exists()
    assert all(path.exists() for path in kept)


def test_an_unfinished_file_of_the_cache_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old, young = (tmp_path / f".{number}.blob.{number:032x}" for number in range(2))
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    write_cached(tmp_path / "2.blob", b"graph")
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "2.blob"}
    assert read_cached(tmp_path / "2.blob") == b"graph"


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
