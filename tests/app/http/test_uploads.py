"""Folders of uploads vanish with their upload, and with a service that was killed at the next start."""

import subprocess
import sys
from pathlib import Path

import pytest

from snf_app.http.uploads import UploadFolders, note_target

HOLD = """
import sys, time
from pathlib import Path
from snf_app.http.uploads import UploadFolders
from snf_app.http.uploads import note_target
with UploadFolders(Path(sys.argv[1]) / "uploads", Path(sys.argv[1])).new() as folder:
    (folder / "0").write_bytes(b"half an archive")
    note_target(folder, "cells")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_folder_vanishes_with_its_upload(tmp_path: Path) -> None:
    with UploadFolders(tmp_path / "uploads", tmp_path).new() as folder:
        (folder / "0").write_bytes(b"x")
    assert not folder.exists()


def test_what_a_killed_service_left_is_swept(tmp_path: Path) -> None:
    unfinished = tmp_path / f".cells.{'0' * 32}"
    others = [tmp_path / f".shells.{'0' * 32}", tmp_path / "cells", tmp_path / "uploads" / "lock"]
    folders = UploadFolders(tmp_path / "uploads", tmp_path)
    service = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        folder = Path(service.stdout.readline().strip())
        for path in (unfinished, *others[:2]):
            path.mkdir()
            (path / "originals.bin").write_bytes(b"x")
        folders.sweep()
        assert (folder / "0").exists(), "another service is writing there"
        assert unfinished.exists()
    finally:
        service.kill()
        service.communicate()
    with folders.new() as live:
        note_target(live, "cells")
        folders.sweep()
        assert not folder.exists()
        assert unfinished.exists(), "an upload of the same name is in hand"
    with folders.new() as orphan:
        note_target(orphan, "cells")
        (orphan / "lock").unlink()
        folders.sweep()
        assert not orphan.exists()
    assert not unfinished.exists()
    assert all(path.exists() for path in others)


def test_a_folder_whose_lock_cannot_be_read_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "uploads" / "a"
    (folder / "lock").mkdir(parents=True)  # opening it fails, as on a file system that is not there
    note_target(folder, "cells")
    unfinished = tmp_path / f".cells.{'0' * 32}"
    unfinished.mkdir()
    UploadFolders(tmp_path / "uploads", tmp_path).sweep()
    assert unfinished.exists()
    assert folder.exists()
    assert f"{folder} is taken as in use, because its lock cannot be read: Is a directory" in caplog.messages
