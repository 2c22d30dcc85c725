"""Artifacts as tar files: the same bytes every time, read by other tools, and nothing taken that is no model's."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snf_models.archives import MAX_EXTENDED
from snf_models.artifacts.files import CARD, MAX_BYTES, NAMES, SAMPLES, WEIGHTS, pack, unpack
from snf_models.artifacts.manifest import FILE
from snf_models.errors import ArtifactError, ArtifactRefused

SMALL = {name: name.encode() * 100 for name in NAMES}


def tar(members: dict[str, bytes], change: Callable[[tarfile.TarInfo], object] = lambda _member: None) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            change(member)
            archive.addfile(member, io.BytesIO(content) if member.size else None)
    return output.getvalue()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [1000, 2**20])
def test_there_and_back(artifact: Path, tmp_path: Path, size: int) -> None:
    packed = pack(artifact)
    data = b"".join(packed)
    assert len(data) == packed.size
    assert data == b"".join(pack(artifact))
    unpack(pieces(data, size), tmp_path)
    assert contents(tmp_path) == contents(artifact)


def test_the_bytes_do_not_tell_of_the_machine(artifact: Path, copy: Path) -> None:
    for path in copy.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert b"".join(pack(copy)) == b"".join(pack(artifact))


def test_other_tools_read_it_and_make_it(artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.tar"
    file.write_bytes(b"".join(pack(artifact)))
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", file, "-C", tmp_path / "out"], check=True)
    assert contents(tmp_path / "out") == contents(artifact)
    for index, options in enumerate((["--format=gnu"], ["--format=posix"], ["--format=ustar"])):
        made = subprocess.run(["tar", "cf", "-", *options, "-C", artifact, "."], check=True, capture_output=True).stdout
        folder = tmp_path / str(index)
        folder.mkdir()
        unpack([made], folder)
        assert contents(folder) == contents(artifact)


def test_a_version_that_is_removed_meanwhile_is_packed_whole(copy: Path, artifact: Path) -> None:
    packed = pack(copy)
    for path in copy.iterdir():
        path.unlink()
    assert b"".join(packed) == b"".join(pack(artifact))
    with pytest.raises(ArtifactError, match="cannot be read"):
        pack(copy)


def kind(value: bytes, **more: str) -> Callable[[tarfile.TarInfo], object]:
    def change(member: tarfile.TarInfo) -> None:
        if member.name == WEIGHTS:
            member.type, member.size = value, 0
            member.linkname = more.get("linkname", "")

    return change


GOOD = tar(SMALL)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tar({"../../etc/passwd": b"x"}), "is none of the files of a model"),
        (tar({"/etc/passwd": b"x"}), "is none of the files of a model"),
        (tar({f"model/{WEIGHTS}": b"x"}), "is none of the files of a model"),
        (tar({f"././{WEIGHTS}": b"x"}), "is none of the files of a model"),
        (tar(SMALL | {"notes.txt": b"x"}), "'notes.txt' is none of the files"),
        (tar({"\u00e4" * 300: b"x"}), "none of the files"),
        (tar(SMALL, kind(tarfile.SYMTYPE, linkname="/etc/passwd")), f"'{WEIGHTS}' is not a plain file"),
        (tar(SMALL, kind(tarfile.LNKTYPE, linkname=CARD)), f"'{WEIGHTS}' is not a plain file"),
        (tar(SMALL, kind(tarfile.DIRTYPE)), f"'{WEIGHTS}' is not a plain file"),
        (tar(SMALL, kind(tarfile.CHRTYPE)), f"'{WEIGHTS}' is not a plain file"),
        (tar(SMALL, kind(tarfile.FIFOTYPE)), f"'{WEIGHTS}' is not a plain file"),
        (tar(SMALL, kind(tarfile.GNUTYPE_SPARSE)), f"'{WEIGHTS}' is not a plain file"),
        (GOOD[:2048] + GOOD, "is there twice"),
        (tar({name: SMALL[name] for name in NAMES if name != CARD}), f"there is no {CARD}"),
        (tar({}), f"there is no {FILE}, {WEIGHTS}"),
        (tar({FILE: bytes(MAX_BYTES[FILE] + 1)}), f"'{FILE}' has more than"),
        (tar({SAMPLES: bytes(MAX_BYTES[SAMPLES] + 1)}), f"'{SAMPLES}' has more than"),
        (
            tar({"x": bytes(MAX_EXTENDED + 1)}, lambda member: setattr(member, "type", tarfile.XHDTYPE)),
            "a header has more",
        ),
        (GOOD[:3000], "cut off"),
        (GOOD[:512], "cut off"),
        (GOOD.rstrip(b"\0"), "cut off"),
        (b"", "cut off"),
        (GOOD + b"more", "bytes follow the end"),
        (b"PK\x03\x04" + bytes(2000), "not a plain tar"),
        (b"\x1f\x8b" + bytes(2000), "not a plain tar"),
        (GOOD[:100] + b"x" + GOOD[101:], "not a plain tar"),
    ],
)
@pytest.mark.parametrize("size", [777, 2**25])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes, says: str, size: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(ArtifactRefused, match=re.escape(says)):
        unpack(pieces(data, size), folder)
    assert {path.name for path in folder.iterdir()} <= set(NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo(WEIGHTS)
    member.size = -(2**20)
    with pytest.raises(ArtifactRefused, match="negative size"):
        unpack([member.tobuf(tarfile.GNU_FORMAT)], tmp_path)
