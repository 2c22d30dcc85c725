"""Which locations callers over HTTP may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from snf_models.errors import LocationRefused
from snf_models.locations.location import allowed_location

NO_HOME = Path("/nowhere/home")


def test_nothing_may_be_named_by_default() -> None:
    with pytest.raises(LocationRefused, match="SNF_ALLOWED_LOCATIONS, which is not set"):
        allowed_location("s3://lots/2024", (), NO_HOME)


@pytest.mark.parametrize("url", ["s3://lots/a", "s3://lots/a/", "s3://lots/a/b/c.tar", "gs://other/anything"])
def test_what_is_below_a_prefix_may_be_named(url: str) -> None:
    assert allowed_location(url, ("s3://lots/a", "gs://other"), NO_HOME).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["s3://lots/ab", "s3://lots", "s3://lots2/a", "gs://lots/a", "file:///etc", "s3://lots/a/../b", "file:///lots/a"],
)
def test_all_else_is_refused(url: str) -> None:
    with pytest.raises(LocationRefused):
        allowed_location(url, ("s3://lots/a",), NO_HOME)


def test_links_do_not_lead_out_of_a_prefix(tmp_path: Path) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    shared.mkdir()
    private.mkdir()
    (shared / "link").symlink_to(private)
    (tmp_path / "alias").symlink_to(shared)
    prefixes = ((tmp_path / "alias").as_uri(),)

    assert allowed_location((shared / "lot").as_uri(), prefixes, NO_HOME).local_path == shared / "lot"
    for path in (shared / "link", shared / "link" / "lot", private):
        with pytest.raises(LocationRefused, match="SNF_ALLOWED_LOCATIONS"):
            allowed_location(path.as_uri(), prefixes, NO_HOME)


def test_what_is_returned_has_no_links(tmp_path: Path) -> None:
    (tmp_path / "shared" / "lot").mkdir(parents=True)
    (tmp_path / "shared" / "link").symlink_to("lot")
    location = allowed_location((tmp_path / "shared" / "link").as_uri(), (tmp_path.as_uri(),), NO_HOME)
    assert location.local_path == tmp_path / "shared" / "lot"


def test_the_data_folder_of_the_service_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "data" / "snf"
    (home / "jobs").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to(home / "jobs")
    prefixes = (tmp_path.as_uri(), "s3://lots")
    for path in (home, home / "jobs", home / "new", tmp_path / "data", tmp_path / "data" / "link" / "x", tmp_path):
        with pytest.raises(LocationRefused, match="expected a folder apart from SNF_HOME"):
            allowed_location(path.as_uri(), prefixes, home)
    for url in ("s3://lots/a", (tmp_path / "data" / "snf-images").as_uri(), (tmp_path / "other").as_uri()):
        assert allowed_location(url, prefixes, home).url == url
