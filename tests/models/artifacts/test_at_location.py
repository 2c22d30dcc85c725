"""Artifacts at a location: written, fetched, cached, and refused where they are not what their manifest says."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snf_models.artifacts.files import WEIGHTS, cached_artifact, fetch_artifact, files_at, write_artifact
from snf_models.artifacts.manifest import FILE
from snf_models.disk import RESERVE
from snf_models.errors import ArtifactRefused, LocationNotFound, StorageFull
from snf_models.locations.location import Location
from snf_models.scorer import Scorer, load_model
from tests.support.s3 import S3Server

MANY = 2**30


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def damage(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"other weights")


def enlarge(folder: Path) -> None:
    (folder / FILE).write_bytes(b" " * (2**20 + 1))


def spoil(folder: Path) -> None:
    (folder / FILE).write_text("{}")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (name_a_foreign_file, r"'\.\./evil\.pickle' is none of the files of a model"),
        (damage, r"weights\.safetensors does not have the SHA-256"),
        (enlarge, "has 1048577 bytes, expected at most 1048576"),
        (spoil, "is not a valid manifest"),
    ],
)
def test_files_that_are_not_those_of_a_manifest_are_refused(
    change: Callable[[Path], None], text: str, stored: Location, tmp_path: Path
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
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(2**40, 2**40, RESERVE + size - 1))
    with pytest.raises(StorageFull, match=f"{size} bytes are needed, {size - 1} bytes of the disk may be used"):
        cached_artifact(stored, tmp_path / "cache", MANY, lambda _folder: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_place_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocationNotFound, match=r"empty/manifest\.json"):
        cached_artifact(Location.parse(str(tmp_path / "empty")), tmp_path / "cache", MANY, lambda _folder: None)
