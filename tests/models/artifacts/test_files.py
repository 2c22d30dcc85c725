"""Artifacts as tar files: the same bytes every time, read by other tools, and nothing taken that is no model's."""

import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snf_models.archives import MAX_EXTENDED
from snf_models.artifacts.files import (
    CARD,
    MAX_BYTES,
    NAMES,
    SAMPLES,
    WEIGHTS,
    cached_artifact,
    fetch_artifact,
    files_at,
    pack,
    unpack,
    write_artifact,
)
from snf_models.artifacts.manifest import FILE
from snf_models.disk import RESERVE
from snf_models.errors import ArtifactError, ArtifactRefused, LocationNotFound, StorageFull
from snf_models.locations.location import Location
from snf_models.scorer import Scorer, load_model
from tests.support.disks import Disk
from tests.support.s3 import S3Server

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


def negative_size() -> bytes:
    member = tarfile.TarInfo(WEIGHTS)
    member.size = -(2**20)
    return member.tobuf(tarfile.GNU_FORMAT)


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
        (negative_size(), "negative size"),
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


MANY = 2**30


@pytest.fixture
def stored(artifact: Path, tmp_path: Path) -> Location:
    """An artifact in a folder of this machine that a test may damage."""
    location = Location.parse(str(tmp_path / "there"))
    write_artifact(artifact, location)
    return location


def test_a_model_on_s3_scores_as_the_one_that_was_written(
    artifact: Path, scorer: Scorer, s3: S3Server, tmp_path: Path
) -> None:
    location = s3.bucket("models").child("digits/1")
    assert files_at(location) == []
    write_artifact(artifact, location)
    checked: list[dict[str, bytes]] = []
    kept = cached_artifact(location, tmp_path / "cache", MANY, lambda folder: checked.append(contents(folder)))
    assert contents(kept) == contents(artifact) == checked[0]
    assert set(files_at(location)) == set(checked[0])
    likelihoods = [each.score(scorer.pinned)[0].log_likelihood for each in (scorer, load_model(kept))]
    assert likelihoods[0] == likelihoods[1]
    assert cached_artifact(location, tmp_path / "cache", MANY, lambda _folder: checked.append({})) == kept
    assert len(checked) == 1, "it is fetched and checked once"
    (kept / WEIGHTS).write_bytes(b"damaged")
    assert contents(cached_artifact(location, tmp_path / "cache", MANY, lambda _folder: None)) == contents(artifact)


def name_a_foreign_file(folder: Path) -> None:
    manifest = json.loads((folder / FILE).read_text())
    manifest["files"]["../evil.pickle"] = "0" * 64
    (folder / FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (name_a_foreign_file, r"'\.\./evil\.pickle' is none of the files of a model"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(b"other weights"),
            r"weights\.safetensors does not have the SHA-256",
        ),
        (lambda folder: (folder / FILE).write_bytes(b" " * (2**20 + 1)), "has 1048577 bytes, expected at most 1048576"),
        (lambda folder: (folder / FILE).write_text("{}"), "is not a valid manifest"),
    ],
)
def test_files_that_are_not_those_of_a_manifest_are_refused(
    change: Callable[[Path], object], text: str, stored: Location, tmp_path: Path
) -> None:
    assert stored.local_path is not None
    change(stored.local_path)
    with pytest.raises(ArtifactRefused, match=text):
        cached_artifact(stored, tmp_path / "cache", MANY, lambda _folder: None)
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_no_more_is_read_than_a_model_may_have(stored: Location, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ArtifactRefused, match="expected at most"):
        fetch_artifact(stored, tmp_path / "here", 20_000)
    assert sum(path.stat().st_size for path in (tmp_path / "here").iterdir()) <= 20_000


def test_what_a_killed_fetch_left_is_deleted_after_a_day(stored: Location, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kept = cached_artifact(stored, cache, MANY, lambda _folder: None)
    left = {hours: cache / f".{kept.name}.{hours:032x}" for hours in (1, 25)}
    for hours, folder in left.items():
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(b"a part of it")
        for path in (folder / WEIGHTS, folder):
            os.utime(path, (time.time() - hours * 3600,) * 2)
    assert cached_artifact(stored, cache, MANY, lambda _folder: None) == kept
    assert set(cache.iterdir()) == {kept, left[1]}, "another process may be writing the newer one"


def test_a_model_leaves_the_reserve_of_the_disk(
    stored: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stored.local_path is not None
    size = (stored.local_path / WEIGHTS).stat().st_size
    Disk(monkeypatch, total=2**40, free=RESERVE + size - 1)
    with pytest.raises(StorageFull, match=f"{size} bytes are needed, {size - 1} bytes of the disk may be used"):
        cached_artifact(stored, tmp_path / "cache", MANY, lambda _folder: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_place_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocationNotFound, match=r"empty/manifest\.json"):
        cached_artifact(Location.parse(str(tmp_path / "empty")), tmp_path / "cache", MANY, lambda _folder: None)
