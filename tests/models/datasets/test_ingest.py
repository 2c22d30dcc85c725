"""Uploads become datasets as a whole or not at all, and nothing outside a dataset's folder is ever touched."""

import copy
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snf_client.schemas.training import TrainingConfig
from snf_models.datasets import DatasetStore
from snf_models.datasets.uploads import Limits
from snf_models.errors import DatasetNotFound, DatasetRefused, DatasetTaken, ErrorKind, InvalidName, StorageFull
from snf_runtime.images.codec import encode_png
from tests.models.datasets.upload_files import (
    DIGITS,
    GOOD,
    PNG,
    bad_crc,
    encrypted,
    headed,
    huge_pax_header,
    in_xz_streams,
    invalid_header,
    mixed,
    npy,
    npz,
    patched,
    pngs,
    source,
    tar_member,
    tarred,
    with_name,
    zip_link,
    zipped,
)
from tests.support.disks import MIB, Disk


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Executes:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


OBJECTS = np.array([Executes()] * 12, dtype=object)
BOMB = zipped({**GOOD, **{f"{index}.bmp": bytes(2**20) for index in range(40)}}, zipfile.ZIP_DEFLATED)

MALFORMED: dict[str, tuple[bytes, str, str]] = {
    "absolute": (with_name("/tmp/evil.png"), "unsafe-archive", "is absolute"),
    "parent": (with_name("../../evil.png"), "unsafe-archive", r"by '\.\.'"),
    "parent inside": (with_name("a/../../evil.png"), "unsafe-archive", r"by '\.\.'"),
    "drive": (with_name("C:evil.png"), "unsafe-archive", "drive letter"),
    "backslash": (with_name("..\\evil.png"), "unsafe-archive", "backslash"),
    "control": (with_name("a\nb.png"), "unsafe-archive", "control characters"),
    "long": (with_name("a" * 2000), "unsafe-archive", "longer than"),
    "zip link": (zipped([*GOOD.items(), (zip_link("a.png"), b"/etc/passwd")]), "unsafe-archive", "link or a device"),
    "zip not utf-8": (
        patched(with_name("abcd.png"), b"abcd.png", b"ab\xff\xfe.png"),
        "unsafe-archive",
        "not UTF-8",
    ),
    "encrypted": (encrypted(), "unsupported-archive", "encrypted"),
    "zip method": (zipped(GOOD, zipfile.ZIP_BZIP2), "unsupported-archive", "neither stored nor deflated"),
    "zip cut off": (zipped(GOOD)[:-30], "malformed-archive", "not a zip file"),
    "zip bad checksum": (bad_crc(), "malformed-archive", "CRC"),
    "zip header only": (b"PK\x03\x04" + bytes(100), "malformed-archive", "not a zip file"),
    "tar parent": (tarred({**GOOD, "../evil.png": PNG}), "unsafe-archive", r"by '\.\.'"),
    "tar absolute": (tarred({**GOOD, "/evil.png": PNG}), "unsafe-archive", "is absolute"),
    "tar link": (tarred(GOOD, "gz", tar_member("a", tarfile.SYMTYPE, "/etc")), "unsafe-archive", "link or a device"),
    "tar hard link": (tarred(GOOD, "", tar_member("a", tarfile.LNKTYPE, "lot0/000.png")), "unsafe-archive", "link"),
    "tar fifo": (tarred(GOOD, "xz", tar_member("a", tarfile.FIFOTYPE)), "unsafe-archive", "link or a device"),
    "tar device": (tarred(GOOD, "bz2", tar_member("a", tarfile.CHRTYPE)), "unsafe-archive", "link or a device"),
    "tar not utf-8": (tarred({**GOOD, "ab\udcff.png": PNG}), "unsafe-archive", "not UTF-8"),
    "tar twice": (tarred(GOOD, twice="lot0/000.png"), "malformed-archive", "there twice"),
    "tar cut off": (tarred(GOOD)[:3000], "malformed-archive", "end|cut off"),
    "tar cut at a header": (tarred(GOOD)[:1024], "malformed-archive", "cut off"),
    "xz cut in a later stream": (in_xz_streams(tarred(GOOD))[:-40_100], "malformed-archive", "xz stream is cut off"),
    "tar invalid header": (invalid_header(), "malformed-archive", "cut off or damaged"),
    "tar damaged pax record": (
        tarred(GOOD)[:1024] + headed(tarfile.XHDTYPE, b"0 x=y\n"),
        "malformed-archive",
        "cut off or damaged",
    ),
    "gz cut off": (tarred(GOOD, "gz")[:-200], "malformed-archive", "ended before"),
    "xz cut off": (tarred(GOOD, "xz")[:-200], "malformed-archive", "cut off"),
    "bz2 damaged": (tarred(GOOD, "bz2")[:40] + bytes(200), "malformed-archive", ""),
    "gz of no tar": (b"\x1f\x8b" + bytes(50), "malformed-archive", ""),
    "huge header": (huge_pax_header(), "unsafe-archive", "a header has more than"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "unsupported-archive", "7z"),
    "zip twice": (zipped([*GOOD.items(), *GOOD.items()]), "malformed-archive", "there twice"),
    "bomb": (BOMB, "dataset-too-large", "unpacks to more than"),
    "npz objects": (npz(images=OBJECTS), "malformed-array", "never unpickled"),
    "npy objects": (npy(OBJECTS), "malformed-array", "never unpickled"),
    "npy float": (npy(np.zeros((12, 8, 8))), "malformed-array", "expected uint8"),
    "npy flat": (npy(np.zeros((12, 64), np.uint8)), "malformed-array", r"expected \(N, H, W\)"),
    "npy channels": (npy(np.zeros((12, 8, 8, 5), np.uint8)), "malformed-array", r"expected \(N, H, W\)"),
    "npy fortran": (npy(np.asfortranarray(np.zeros((12, 8, 8), np.uint8))), "malformed-array", "C order"),
    "npy cut off": (npy(DIGITS[:12, 0])[:-1], "malformed-array", "end in number 11"),
    "npy too long": (npy(DIGITS[:12, 0]) + b"x", "malformed-array", "goes on"),
    "npy header": (b"\x93NUMPY\x01\x00\x10\x00{'descr': 1+1   }", "malformed-array", "not an array"),
    "npz without images": (npz(a=DIGITS[:12, 0], b=DIGITS[:12, 0]), "malformed-array", "expected in 'images'"),
    "npz groups": (npz(images=DIGITS[:12, 0], group=np.arange(11)), "malformed-array", "12 images"),
    "npz group objects": (npz(images=DIGITS[:12, 0], group=OBJECTS), "malformed-array", "never unpickled"),
    "too few": (zipped(pngs(9)), "dataset-too-small", "9 different images can be used"),
    "all the same": (zipped({f"{n}.png": PNG for n in range(99)}), "dataset-too-small", "1 different images"),
    "nothing good": (zipped({f"{n}.png": b"text" for n in range(20)}), "dataset-too-small", "20 files were rejected"),
    "only texts": (zipped({f"{n}.txt": b"text" for n in range(20)}), "dataset-too-small", "20 files were skipped"),
    "empty": (zipped({}), "dataset-too-small", "0 different images"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("data", "slug", "reason"), MALFORMED.values(), ids=list(MALFORMED))
def test_what_is_refused_as_a_whole(data: bytes, slug: str, reason: str, store: DatasetStore, tmp_path: Path) -> None:
    (tmp_path / "evil.png").write_bytes(b"was here before")
    given = source(tmp_path / "uploads", data)
    before = snapshot(tmp_path)
    limits = Limits(ratio=20, ratio_from=2**20, unpacked_bytes=64 * 2**20)
    with pytest.raises(DatasetRefused, match=reason or ".") as caught:
        store.create("digits", [given], limits=limits)
    assert caught.value.slug in slug.split("|")
    assert caught.value.title
    assert str(tmp_path) not in caught.value.detail, "where it lies is nobody else's business"
    assert snapshot(tmp_path) == before, "nothing is left, and nothing else was touched"
    assert list(store.root.iterdir()) == []


def test_a_sound_upload_touches_nothing_but_its_folder(store: DatasetStore, tmp_path: Path) -> None:
    given = source(tmp_path / "uploads", zipped(GOOD))
    before = snapshot(tmp_path)
    store.create("digits", [given])
    assert {
        path: data for path, data in snapshot(tmp_path).items() if store.root / "digits" not in path.parents
    } == before
    names = {path.name for path in (store.root / "digits").iterdir()}
    assert names == {"originals.bin", "index.sqlite", "report.json", "contact_sheet.png"}


@pytest.mark.parametrize("limits", [Limits(files=10), Limits(unpacked_bytes=2000)], ids=["files", "bytes"])
@pytest.mark.parametrize("data", [zipped(GOOD), tarred(GOOD), npy(DIGITS[:12, 0])], ids=["zip", "tar", "npy"])
def test_limits_are_counted(data: bytes, limits: Limits, store: DatasetStore, tmp_path: Path) -> None:
    with pytest.raises(DatasetRefused, match="more than") as caught:
        store.create("digits", [source(tmp_path / "uploads", data)], limits=limits)
    assert caught.value.slug == "dataset-too-large"
    assert store.names() == []


def test_a_directory_that_would_fill_the_memory(store: DatasetStore, tmp_path: Path) -> None:
    wordy = zipfile.ZipInfo("a.png")
    wordy.comment = b"x" * 65_535
    entries = [(copy.copy(wordy), encode_png(digit)) for digit in DIGITS[:20]]
    for index, (info, _) in enumerate(entries):
        info.filename = f"{index}.png"
    given = source(tmp_path / "uploads", zipped(entries))
    with pytest.raises(DatasetRefused, match="its directory has 13"):
        store.create("digits", [given], limits=Limits(files=100))
    assert store.create("digits", [given]).images == 20


FORMS = {
    "zip": (zipped(GOOD), "a.zip"),
    "deflated zip": (zipped(GOOD, zipfile.ZIP_DEFLATED), "a.zip"),
    "tar": (tarred(GOOD), "a.tar"),
    "tar.gz": (tarred(GOOD, "gz"), "a.tar.gz"),
    "tar.bz2": (tarred(GOOD, "bz2"), "a.tar.bz2"),
    "tar.xz": (tarred(GOOD, "xz"), "a.tar.xz"),
    "tar.xz of several streams": (in_xz_streams(tarred(GOOD)), "a.tar.xz"),
    "zip under another name": (zipped(GOOD), "a.png"),
    "npy": (npy(DIGITS[:12, 0]), "a.npy"),
    "npy with a channel": (npy(DIGITS[:12, 0, :, :, None]), "a.npy"),
    "npz": (npz(images=DIGITS[:12, 0]), "a.npz"),
    "npz of training": (npz(x_train=DIGITS[:12, 0], y_train=np.arange(12)), "a.npz"),
}


@pytest.mark.parametrize(("data", "filename"), FORMS.values(), ids=list(FORMS))
def test_every_form_gives_the_same_pixels(data: bytes, filename: str, store: DatasetStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    given = source(tmp_path / "uploads", data, filename)
    report = store.create("digits", [given], progress=lambda *at: told.append(at))
    assert (report.images, report.rejected, report.ignored) == (12, 0, 0)
    assert told[-1] == (len(data), len(data))
    assert told == sorted(told)
    dataset = store.load("digits", TrainingConfig())
    everything = np.concatenate([dataset.train, dataset.statistics, dataset.calibration])
    assert {image.tobytes() for image in everything} == {image.tobytes() for image in DIGITS[:12]}


def test_many_image_files(store: DatasetStore, tmp_path: Path) -> None:
    files = [source(tmp_path / "uploads", data, name) for name, data in GOOD.items()]
    files += [
        source(tmp_path / "uploads", PNG, "../up.png"),
        source(tmp_path / "uploads", PNG, "lot0/000.png"),
        source(tmp_path / "uploads", PNG, ".hidden.png"),
        source(tmp_path / "uploads", b"text", "notes.txt"),
        source(tmp_path / "uploads", b"text", "notes.png"),
        source(tmp_path / "uploads", b"", "empty.png"),
    ]
    report = store.create("digits", files)
    assert (report.images, report.rejected, report.ignored) == (12, 4, 2)
    assert report.rejected_by == {
        "empty-image": 1,
        "name-taken": 1,
        "undecodable-image": 1,
        "unsafe-name": 1,
    }


def test_single_bad_files_are_left_out_with_their_reason(store: DatasetStore, tmp_path: Path) -> None:
    Image.new("F", (8, 8)).save(tmp_path / "deep.tif")
    files = {
        **GOOD,
        "readme.txt": b"text",
        "readme": b"text",
        "inner.zip": zipped(GOOD),
        "inner.npy": npy(DIGITS[:3, 0]),
        "deep.tif": (tmp_path / "deep.tif").read_bytes(),
        "cut.png": PNG[:-60],
        "large.png": bytes(5000),
        "__MACOSX/a.png": PNG,
        ".DS_Store": b"x",
        "lot0/Thumbs.db": b"x",
    }
    for data in (zipped(files), tarred(files)):
        report = store.create("digits", [source(tmp_path / "uploads", data)], limits=Limits(file_bytes=4000))
        assert (report.images, report.rejected, report.ignored) == (12, 6, 4)
        reasons = {one.path: one.reason for one in report.rejected_files}
        assert "expected one of PNG" in reasons["readme"]
        assert "inside an archive is not opened" in reasons["inner.npy"]
        assert "got floating-point numbers" in reasons["deep.tif"]
        assert "ends too early" in reasons["cut.png"]
        assert "5000 bytes, at most 4000" in reasons["large.png"]
        assert any("left out" in note for note in report.notes)
        assert any("4 files were skipped" in note for note in report.notes)
        store.delete("digits")


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["lot.2024-01.zip", "lot.2024-02.zip"], ["lot.2024-01.zip", "lot.2024-02.zip"]),
        (["a.zip", "b.tar"], ["a", "b"]),
        (["a.zip", "a.tar"], ["a.zip", "a.tar"]),
        (["a/b.zip", "c/b.zip"], ["b.zip-1", "b.zip-2"]),
        (["a.zip", "a.zip", "a.zip-2"], ["a.zip-1", "a.zip-2", "a.zip-2-3"]),
        ([".a.zip", ".b.zip"], ["zip.a.zip", "zip.b.zip"]),
        (["..", "", "zip"], ["zip..", "zip-2", "zip-3"]),
        (["lot.2024-01.zip", "other.zip"], ["lot", "other"]),
    ],
)
def test_archives_of_similar_names_keep_their_files_apart(
    names: list[str], groups: list[str], store: DatasetStore, tmp_path: Path
) -> None:
    sources = [source(tmp_path / "uploads", PNG, "single.png")]
    for place, name in enumerate(names):
        files = {f"{n}.png": encode_png(DIGITS[8 * place + n]) for n in range(8)}
        data = tarred(files) if name.endswith(".tar") else zipped(files)
        sources.append(source(tmp_path / "uploads", data, name))
    report = store.create("digits", sources)
    assert (report.images, report.rejected_files) == (1 + 8 * len(names), [])
    assert report.groups == {"": 1} | dict.fromkeys(groups, 8)


def test_names(store: DatasetStore, tmp_path: Path) -> None:
    given = [source(tmp_path / "uploads", zipped(GOOD))]
    for name in ("../up", "A", "", "a/b", ".a", "a" * 65):
        with pytest.raises(InvalidName):
            store.create(name, given)
        with pytest.raises(DatasetNotFound):
            store.delete(name)
        with pytest.raises(DatasetNotFound):
            store.report(name)
    store.create("digits", given)
    for name in ("digits", "mnist", "mnist-mini"):
        with pytest.raises(DatasetTaken, match=name):
            store.create(name, given)
    assert store.names() == ["digits"]
    store.delete("digits")
    assert list(store.root.iterdir()) == []
    with pytest.raises(DatasetNotFound):
        store.delete("digits")


def test_a_name_that_is_taken_meanwhile(store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [source(tmp_path / "uploads", zipped(GOOD))]

    def race(_done: int, _total: int) -> None:
        if not store.names():
            DatasetStore(store.root).create("digits", given)

    with pytest.raises(DatasetTaken):
        store.create("digits", given, progress=race)
    monkeypatch.setattr(Path, "exists", lambda _path: False)  # as at the last moment
    with pytest.raises(DatasetTaken):
        store.create("digits", given)
    assert [path.name for path in store.root.iterdir()] == ["digits"]


@pytest.mark.parametrize("last", [False, True])
def test_progress_that_raises_ends_an_upload_and_leaves_nothing(
    last: bool, store: DatasetStore, tmp_path: Path
) -> None:
    given = source(tmp_path / "uploads", zipped(GOOD))
    told: list[tuple[int, int]] = []
    store.create("before", [given], progress=lambda *at: told.append(at))
    left = len(told) if last else 1

    def stop(_done: int, _total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.create("digits", [given], progress=stop)
    assert [path.name for path in store.root.iterdir()] == ["before"]


def test_the_report(store: DatasetStore, tmp_path: Path) -> None:
    files = mixed()
    files["lot0/copy.png"] = files["lot1/01.jpeg"]
    report = store.create("photos", [source(tmp_path / "uploads", zipped(files))])
    assert report == store.report("photos")
    assert report.images == 61
    assert report.formats == {"JPEG": 16, "PNG": 15, "BMP": 15, "WEBP": 15}
    assert report.coloured == 20
    assert report.different_sizes == 35
    assert sum(size.images for size in report.sizes) == 61
    assert report.facts.smallest == (24, 20)
    assert report.facts.largest == (48, 44)
    assert report.facts.channels is None
    assert (report.duplicates.images, report.duplicates.sets) == (2, 1)
    assert report.duplicates.examples == [["lot0/copy.png", "lot1/01.jpeg"]]
    assert report.groups["lot0"] == 11
    assert report.different_groups == 6
    assert report.split.rule == "by-group"
    text = " ".join(report.notes)
    assert "61 images are few" in text
    assert "sizes differ" in text
    with Image.open(store.contact_sheet("photos")) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (8 * 66 - 2, 8 * 66 - 2)


@pytest.mark.parametrize("quota", [100, 5000], ids=["before", "while writing"])
def test_the_quota(quota: int, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "datasets", quota=quota)
    with pytest.raises(StorageFull, match="of the quota") as caught:
        store.create("digits", [source(tmp_path / "uploads", tarred(GOOD, "xz"))])
    assert (caught.value.kind, caught.value.slug) == (ErrorKind.NO_SPACE, "storage-full")
    assert list(store.root.iterdir()) == []


def test_the_disk_must_keep_its_reserve(store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, total=64 * MIB, free=16 * MIB)
    with pytest.raises(StorageFull, match="of the disk"):
        store.create("digits", [source(tmp_path / "uploads", zipped(GOOD))])


def test_a_disk_that_fills_up(store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("snf_models.datasets.store._contact_sheet", full)
    with pytest.raises(StorageFull, match="No space left"):
        store.create("digits", [source(tmp_path / "uploads", zipped(GOOD))])
    assert list(store.root.iterdir()) == []
