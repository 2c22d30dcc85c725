"""What is published survives a power failure: it is synced before it has its name, and all that leads to it after."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snf_models.disk import locked, make_folder, new_folder, remove_leftovers, write_atomically
from snf_models.registry.registry import Registry
from snf_models.scoring.cache import read_cached, write_cached
from snf_worker.keys import KeyFile

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
