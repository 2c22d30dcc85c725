"""Rows of a real S3 server behind a proxy that fails a tenth of the requests, and of what storage is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import parquet

from benchmarks.by_reference import ways
from benchmarks.by_reference.images import LAYOUTS, first_files
from benchmarks.by_reference.output import different, lost_and_doubled, size_of, values
from benchmarks.by_reference.rows import Row, verdict
from benchmarks.by_reference.synthetic import Work
from snf_models.bulk.sources import index_location
from snf_models.locations.location import Location
from tests.support.s3 import FaultyProxy, S3Server, faulty_server, s3_server

FILES, IMAGES = 2_000, 20_000
"""Most images as files, and in Parquet files: moto keeps them in memory, and is slow."""
SHARE = 0.1
LEAST_SHARE, LEAST_FAILED = 0.05, 50
"""Requests that must have failed for a row to pass."""
SEED = 0


def measure(work: Work) -> None:
    """Measure the rows that are wanted."""
    if not work.rows.wants("s3", "s3/requests"):
        return
    folders = {"files": _image_files(work), "parquet": first_files(work.images, IMAGES, work.folder / "s3-parquet")}
    counts = {"files": min(work.count, FILES), "parquet": min(work.count, IMAGES)}
    asked: dict[str, dict[str, Any]] = {}
    with work.home("s3") as home, s3_server(home / "moto.log") as server:
        for layout, folder in folders.items():
            with variables(server):
                bucket = server.bucket(layout)
                for path in sorted(folder.iterdir()):
                    bucket.child(f"images/{path.name}").write(path.read_bytes())
            proxy = _score(work, home, server, layout, "plain", 0.0)
            size = size_of(work.folder / "scores" / f"{layout}-plain")
            asked[layout] = _an_image(proxy, counts[layout], size)
        failed = _score(work, home, server, "files", "faulty", SHARE)
        # An index has some pages that do not depend on the images: all images show best what one takes.
        for layout, folder, count in (
            ("files", folders["files"], counts["files"]),
            ("parquet", work.images, work.count),
        ):
            index = index_location(Location.parse(str(folder)), home / f"index-{layout}").index
            asked[layout]["index_bytes_an_image"] = index.stat().st_size / count
    plain, faulty = (values(work.folder / "scores" / f"files-{name}", counts["files"]) for name in ("plain", "faulty"))
    lost, doubled = lost_and_doubled(work.folder / "scores" / "files-faulty", counts["files"])
    differ = different(plain, faulty)
    share = failed.failed.total() / failed.requests.total()
    work.rows.facts |= {"layouts": asked}
    work.rows.record(
        Row(
            "s3",
            f"{counts['files']:,} image files and their scores on S3, a tenth of all requests fails; rows beside those "
            "without failures",
            f"lost {lost}, doubled {doubled}, {differ} differ; {failed.failed.total():,} of "
            f"{failed.requests.total():,} requests failed ({share:.0%})",
            f"lost 0, doubled 0, 0 differ in a bit; at least {LEAST_FAILED} and {LEAST_SHARE:.0%} failed",
            verdict(
                lost == doubled == differ == 0 and failed.failed.total() >= LEAST_FAILED and share >= LEAST_SHARE,
            ),
            {"failed": dict(failed.failed), "requests": dict(failed.requests)},
        )
    )
    shown = [
        f"{LAYOUTS[layout]}: {one['reads_an_image']:.4g} reads, {one['read_bytes_an_image']:,.0f} bytes read, "
        f"{one['index_bytes_an_image']:.3g} bytes of index"
        for layout, one in asked.items()
    ]
    work.rows.record(
        Row(
            "s3/requests",
            "what storage is asked for an image, indexing and checks of versions included",
            "; ".join(shown),
            "at most 3 reads of a file, 0.1 with Parquet",
            verdict(asked["files"]["reads_an_image"] <= 3 and asked["parquet"]["reads_an_image"] <= 0.1),
            asked,
        )
    )


def _image_files(work: Work) -> Path:
    """Return a folder with the first synthetic images as files."""
    folder = work.folder / "s3-files"
    folder.mkdir(exist_ok=True)
    [path] = sorted(work.images.glob("*.parquet"))[:1]
    for row in parquet.ParquetFile(path).read(columns=["image"]).slice(0, FILES)["image"].to_pylist():
        (folder / row["path"]).write_bytes(row["bytes"])
    return folder


def _an_image(proxy: FaultyProxy, count: int, score_bytes: int) -> dict[str, Any]:
    """Return what an image costs storage."""
    return {
        "reads_an_image": (proxy.requests["GET"] + proxy.requests["HEAD"]) / count,
        "read_bytes_an_image": proxy.sent_bytes / count,
        "written_bytes_an_image": score_bytes / count,
        "requests": dict(proxy.requests),
        "images": count,
    }


def _score(work: Work, home: Path, server: S3Server, layout: str, name: str, share: float) -> FaultyProxy:
    """Score the images on S3 through a proxy, copy the parts to this machine, and return what the proxy counted."""
    out = work.output(f"{layout}-{name}")
    images, scores = f"s3://{layout}/images", f"s3://{layout}/{name}"
    with faulty_server(server, share, SEED) as (behind, proxy):
        ways.bulk(home, images, scores, "--processes", "2", variables=behind.environment).wait()
    with variables(server):
        for file in Location(scores).files():
            (out / file.name).write_bytes(Location(scores).child(file.name).read())
    return proxy


@contextmanager
def variables(server: S3Server) -> Iterator[None]:
    """Let this process reach a server."""
    before = dict(os.environ)
    os.environ.update(server.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
