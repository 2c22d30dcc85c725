"""The row of a real S3 server behind a proxy that fails a tenth of the requests, and what storage is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.by_reference import ways
from benchmarks.by_reference.images import first_files
from benchmarks.by_reference.output import lost_and_doubled, scores, size_of
from benchmarks.by_reference.rows import Row
from benchmarks.by_reference.synthetic import Work
from models.locations.location import Location
from tests.support.s3 import FaultyProxy, S3Server, faulty_server, s3_server

IMAGES = 20_000
"""Most images: moto keeps them in memory, and is slow."""
SHARE = 0.1
SEED = 0


def measure(work: Work) -> None:
    """Measure the row if it is wanted."""
    if not work.rows.wants("s3"):
        return
    count = min(work.count, IMAGES)
    images = first_files(work.images, count, work.folder / "s3")
    with work.home("s3") as home, s3_server(home / "moto.log") as server:
        with variables(server):
            bucket = server.bucket("digits")
            for path in sorted(images.iterdir()):
                bucket.child(f"images/{path.name}").write(path.read_bytes())
        local = work.output("local")
        ways.bulk(home, str(images), str(local)).wait()
        # Once without faults, for what is asked of storage, and once with them.
        asked = _score(work, home, server, "plain", 0.0)
        failed = _score(work, home, server, "faulty", SHARE)
    wanted = scores(local)
    lost, doubled = lost_and_doubled(work.folder / "scores" / "faulty", count)
    different = sum(wanted.get(name) != score for name, score in scores(work.folder / "scores" / "faulty").items())
    gets = asked.requests["GET"] + asked.requests["HEAD"]
    work.rows.facts |= {
        "reads_an_image": gets / count,
        "read_bytes_an_image": asked.sent_bytes / count,
        "written_bytes_an_image": size_of(local) / count,
        "s3_requests": dict(asked.requests),
    }
    work.rows.record(
        Row(
            "s3",
            f"{count:,} images and their scores on S3, a tenth of all requests fails",
            f"lost {lost}, doubled {doubled}, {different} scores differ; {failed.failed.total()} of "
            f"{failed.requests.total()} requests failed",
            "lost 0, doubled 0, 0 differ",
            lost == doubled == different == 0 and failed.failed.total() > 0,
            {"failed": dict(failed.failed), "requests": dict(failed.requests), "without_faults": dict(asked.requests)},
        )
    )


def _score(work: Work, home: Path, server: S3Server, name: str, share: float) -> FaultyProxy:
    """Score the images on S3 through a proxy, copy the parts to this machine, and return what the proxy counted."""
    out = work.output(name)
    with faulty_server(server, share, SEED) as (behind, proxy):
        ways.bulk(
            home, "s3://digits/images", f"s3://digits/{name}", "--processes", "2", variables=behind.environment
        ).wait()
    with variables(server):
        for file in Location(f"s3://digits/{name}").files():
            (out / file.name).write_bytes(Location(f"s3://digits/{name}").child(file.name).read())
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
