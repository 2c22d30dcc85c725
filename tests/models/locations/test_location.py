"""Locations on a real S3 server and on this machine: the same promises."""

import errno
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snf_models.errors import (
    FileChanged,
    FileUnreadable,
    LocationNotFound,
    LocationRefused,
    LocationUnavailable,
)
from snf_models.locations.location import Location, allowed_location
from tests.support.ports import free_port
from tests.support.s3 import S3Server, faulty_server

NAMES = [
    "#1.png", "%20.png", "a b.png", "a+b&c=d.png", "lot 2/x%2Fy.png", "lot-1/q?x=1#y.png", "lot/7.png", "lot/ü图.png",
    "lot2/[b]{c}.png", "ünï/é'\"~.png",
]  # fmt: skip


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty location, in a prefix whose name needs care."""
    if request.param == "file":
        return Location((tmp_path / "a b%20#?ü").as_uri())
    server: S3Server = request.getfixturevalue("s3")
    return server.bucket(f"b{uuid4().hex}").child("a b%20#?ü")


def test_files_of_any_name_are_written_listed_and_read(place: Location) -> None:
    for name in reversed(NAMES):
        place.child(name).write(f"content of {name}".encode())
    place.parent.child("a b%20#?ü2").child("other.png").write(b"not below it")

    entries = list(place.files())

    assert [entry.name for entry in entries] == sorted(NAMES, key=str.encode)
    for entry in entries:
        file = place.child(entry.name)
        content = f"content of {entry.name}".encode()
        assert entry.size == len(content)
        assert file.read() == file.read(entry.version) == content
        assert file.read_range(3, 9, entry.version) == content[3:9]
        assert file.stat() == entry._replace(name=entry.name.rpartition("/")[2])
        assert Location(file.url) == file
        assert pickle.loads(pickle.dumps(file)) == file


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none(place: Location, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:  # as on a memory card
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    file = place.child("lot/_plan.json")
    assert file.write_new(b"first")
    assert not file.write_new(b"second")
    assert file.read() == b"first"
    assert [entry.name for entry in place.files()] == ["lot/_plan.json"]


def test_a_changed_file_is_never_read_as_the_one_that_was_asked_for(place: Location) -> None:
    file = place.child("image.png")
    file.write(b"first")
    version = next(place.files()).version
    opened = file.open()
    file.write(b"other")

    reads: list[Callable[[], bytes]] = [
        lambda: file.read(version), lambda: file.read_range(0, 2, version), lambda: opened.read(3),
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(FileChanged, match=r"image\.png"):
            read()
    with pytest.raises(FileChanged):
        file.open(version)
    assert file.read() == b"other"
    with pytest.raises(FileChanged, match="has 5 bytes, expected at least 9"):
        file.read_range(2, 9)


def test_a_missing_file_is_named(place: Location) -> None:
    missing = place.child("none.png")
    assert not missing.exists()
    assert missing.stat() is None
    for read in (missing.read, missing.open, lambda: missing.read_range(0, 5)):
        with pytest.raises(LocationNotFound, match=r"there is nothing at .*none\.png"):
            read()
    missing.delete()

    missing.write(b"now")
    assert missing.exists()
    missing.delete()
    assert not missing.exists()


def test_pyarrow_reads_an_open_file(place: Location) -> None:
    table = pa.table({"x": list(range(5000)), "y": [b"%d" % n for n in range(5000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=1000)
    place.child("t.parquet").write(sink.getvalue().to_pybytes())

    with place.child("t.parquet").open() as file:
        parquet = pq.ParquetFile(file, pre_buffer=True)
        assert parquet.read_row_group(3) == table.slice(3000, 1000)


def test_a_missing_bucket_or_folder_is_named(s3: S3Server, tmp_path: Path) -> None:
    for url in ("s3://no-such-bucket/x", (tmp_path / "none").as_uri()):
        with pytest.raises(LocationNotFound, match=f"there is nothing at {url}"):
            list(Location(url).files())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("lots/2024", "expected a URL such as s3://bucket/folder"),
        ("http://host/x", "expected a URL of s3://, gs://, az://, file://"),
        ("s3:///x", "expected a bucket"),
        ("s3://b/a/../../x", r"without '\.\.'"),
        ("s3://b/a//x", "empty parts"),
        ("file://host/x", "three slashes"),
        ("file:///a/%2e%2e/x", r"without '\.\.'"),
        ("s3://b/a\nb", "control characters"),
    ],
)
def test_malformed_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(LocationRefused, match=reason):
        Location(url)


def test_names_that_lead_out_are_refused(place: Location) -> None:
    for name in ("../x", "a/../../x", "/etc/passwd", "", "a//b", "."):
        with pytest.raises(LocationRefused):
            place.child(name)


def test_paths_of_this_machine_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.parse("lot 1").local_path == tmp_path / "lot 1"
    assert Location.parse(f"{tmp_path}/").local_path == tmp_path
    assert Location.parse("s3://b/lot 1/").url == "s3://b/lot 1"
    odd = os.fsdecode(b"bad\xff.png")
    Location.parse(odd).write(b"x")
    assert [entry.name for entry in Location.parse(".").files()] == [odd]
    assert Location(Location.parse(odd).url).read() == b"x"


def test_links_out_of_a_folder_and_pipes_are_named_and_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (folder / "own.png").write_bytes(b"own")
    (folder / "inner.png").symlink_to("own.png")
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "out").symlink_to(outside)
    (folder / "broken.png").symlink_to("none")
    os.mkfifo(folder / "pipe.png")

    entries = {entry.name: entry.problem for entry in Location.parse(str(folder)).files()}

    assert entries == {
        "own.png": None,
        "inner.png": None,
        "out.png": "it is a link that leads out of the folder",
        "out": "it is a link that leads out of the folder",
        "broken.png": "it is a link that leads nowhere: No such file or directory",
        "pipe.png": "expected a plain file, got a pipe, socket or device",
    }


def test_nothing_is_lost_where_a_tenth_of_the_requests_fails(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket("faults")  # by its name, the same requests fail in each run
    contents = {f"{number:03d}.png": os.urandom(20_000) for number in range(90)}
    contents["large"] = os.urandom(12 * 2**20)  # more than one part
    with faulty_server(s3, seed=3) as (server, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        for name, content in contents.items():
            bucket.child(name).write(content)
        entries = list(bucket.files())
        read = {entry.name: bucket.child(entry.name).read(entry.version) for entry in entries}
        ranges = [(start, start + 1000) for start in range(0, 12 * 2**20 - 1000, 3 * 2**20)]
        pieces = [bucket.child("large").read_range(start, stop) for start, stop in ranges]

    assert read == contents
    assert pieces == [contents["large"][start:stop] for start, stop in ranges]
    assert min(proxy.failed[fault] for fault in ("500", "drop", "cut")) >= 5


def test_a_large_file_is_written_where_the_answer_to_its_last_part_is_lost(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, content, lost = s3.bucket(f"b{uuid4().hex}").child("large"), os.urandom(12 * 2**20), iter(["cut"])

    def fault(method: str, path: str, _span: str) -> str | None:
        return next(lost, None) if method == "POST" and "uploadId" in path else None

    with faulty_server(s3) as (server, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(proxy, "fault", fault)
        file.write(content)
        assert file.read() == content
    assert next(lost, None) is None


def test_a_server_that_is_down_gives_a_sentence_in_bounded_time(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(LocationUnavailable) as caught:
        Location("s3://bucket/x.png").read()
    assert time.monotonic() - began < 40
    assert caught.value.detail == "s3://bucket/x.png cannot be used: no connection to the server can be made"


def test_a_server_that_never_answers_gives_a_sentence_in_bounded_time(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snf_models.locations.object_store.READ_SECONDS", 1)
    monkeypatch.setattr("snf_models.locations.object_store.RETRY_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(LocationUnavailable, match=r"x\.png cannot be used: the server gave no answer in time"):
            Location("s3://bucket/x.png").read()
    assert time.monotonic() - began < 15


def test_the_version_of_a_file_is_the_same_on_every_machine(tmp_path: Path) -> None:
    file = Location.parse(str(tmp_path / "a.png"))
    file.write(b"content")
    entry = file.stat()
    status = (tmp_path / "a.png").stat()
    (tmp_path / "b.png").write_bytes(b"content")
    os.utime(tmp_path / "b.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "b.png").replace(tmp_path / "a.png")  # as another mount of the folder: another inode
    assert file.read(entry.version) == b"content"


def test_a_link_that_takes_the_place_of_a_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for path in (folder / "lot" / "7.png", folder / "1.png", outside / "secret.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    entries = Location.parse(str(folder)).files()
    assert next(entries).name == "1.png"  # the names are listed by now
    (folder / "lot").rename(tmp_path / "away")
    (folder / "lot").symlink_to(outside)

    (rest,) = entries

    assert rest.name == "lot"
    assert "the folder cannot be listed" in str(rest.problem)


@pytest.mark.parametrize("swapped", ["lot", "lot/7.png"])
def test_a_link_that_takes_the_place_of_a_listed_file_is_not_followed(tmp_path: Path, swapped: str) -> None:
    """Size and time of the secret are those that were listed, so that its version is the same."""
    for folder, content in (("lots", b"image!"), ("secret", b"secret")):
        (tmp_path / folder / "lot").mkdir(parents=True)
        (tmp_path / folder / "lot/7.png").write_bytes(content)
        os.utime(tmp_path / folder / "lot/7.png", (1, 1))
    lots = Location((tmp_path / "lots").as_uri())
    [entry] = lots.files()
    file = pickle.loads(pickle.dumps(lots.child(entry.name)))
    assert file.read(entry.version) == b"image!"
    (tmp_path / "lots" / swapped).rename(tmp_path / "aside")
    (tmp_path / "lots" / swapped).symlink_to(tmp_path / "secret" / swapped)
    for read in (file.read, file.open, lambda version: file.read_range(0, 3, version)):
        with pytest.raises(FileUnreadable, match="leads out of the folder"):
            read(entry.version)
    (tmp_path / "lots" / swapped).unlink()
    (tmp_path / "aside").rename(tmp_path / "lots" / "elsewhere")
    (tmp_path / "lots" / swapped).symlink_to(tmp_path / "lots" / "elsewhere")
    assert file.read(entry.version) == b"image!"  # a link within the folder


def test_a_link_that_appears_after_the_check_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lots").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "lots/7.png").symlink_to(tmp_path / "secret")
    monkeypatch.setattr("snf_models.locations.disk._real_parts", lambda _path, _root: ["7.png"])
    with pytest.raises(FileUnreadable, match="symbolic links"):
        Location((tmp_path / "lots").as_uri()).child("7.png").read()


def test_a_folder_without_rights_is_refused_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_arguments: object, **_options: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(LocationRefused, match="cannot be used: Permission denied"):
        list(Location.parse(str(tmp_path)).files())


@pytest.mark.parametrize(
    "url", ["s3://KEY:SECRET@bkt/x", "https://KEY:SECRET@host/x", "s3://bkt?sig=SECRET", "az://a:SECRET"]
)
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(LocationRefused, match="expected a bucket without '@', ':'") as caught:
        Location(url)
    assert "SECRET" not in caught.value.detail


NO_HOME = Path("/nowhere/home")


@pytest.mark.parametrize("url", ["s3://lots/a", "s3://lots/a/", "s3://lots/a/b/c.tar", "gs://other/anything"])
def test_what_is_below_a_prefix_may_be_named(url: str) -> None:
    assert allowed_location(url, ("s3://lots/a", "gs://other"), NO_HOME).url == url.rstrip("/")
    with pytest.raises(LocationRefused, match="SNF_ALLOWED_LOCATIONS, which is not set"):
        allowed_location(url, (), NO_HOME)


@pytest.mark.parametrize(
    "url",
    ["s3://lots/ab", "s3://lots", "s3://lots2/a", "gs://lots/a", "file:///etc", "s3://lots/a/../b", "file:///lots/a"],
)
def test_all_else_is_refused(url: str) -> None:
    with pytest.raises(LocationRefused):
        allowed_location(url, ("s3://lots/a",), NO_HOME)


def test_links_do_not_lead_out_of_a_prefix(tmp_path: Path) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    (shared / "lot").mkdir(parents=True)
    private.mkdir()
    (shared / "to-lot").symlink_to("lot")
    (shared / "link").symlink_to(private)
    (tmp_path / "alias").symlink_to(shared)
    prefixes = ((tmp_path / "alias").as_uri(),)

    for name in ("lot", "to-lot"):  # what is returned has no links
        assert allowed_location((shared / name).as_uri(), prefixes, NO_HOME).local_path == shared / "lot"
    for path in (shared / "link", shared / "link" / "lot", private):
        with pytest.raises(LocationRefused, match="SNF_ALLOWED_LOCATIONS"):
            allowed_location(path.as_uri(), prefixes, NO_HOME)


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
