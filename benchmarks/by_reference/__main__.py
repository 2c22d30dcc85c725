"""Scoring by reference: ``python -m benchmarks.by_reference [--images 1000000] [--work FOLDER] [--rows PATTERN ...]``.

A row each, with PASS or FAIL:

- job/..., bulk/..., ray/...: synthetic images in Parquet files at a location, scored by a job of a real ``snf up`` with
  two workers, by ``snf bulk`` with two processes, and by Ray on a local cluster of two nodes. ``killed``: processes are
  killed at random moments, and with Ray a node is lost, too. No row may be lost, doubled, or differ in a bit from a run
  without kills. ``memory``: that of the processes of the same run, the driver included, does not grow. ``rate``: images
  a second on at most 40,000 images, against ``Scorer`` in as many processes on images in memory.
- job/large: memory of a part of 100,000 images.
- two: a job by two workers of one thread over one worker, beside two plain scoring loops over one.
- readers, tars, parquet: the table read by DuckDB and Polars; a WebDataset of JPEGs and a Parquet file of PNGs, whose
  log-likelihoods are equal to the bit to those over HTTP.
- s3: image files and scores on a real S3 server behind a proxy that fails a tenth of the requests. s3/requests: what
  storage is asked for an image, for image files and for Parquet files.

Speeds are BUSY instead of PASS or FAIL where other programs take over half a core, and memory is TOO SHORT where
processes lived for less than six minutes. Rows of an earlier run with as many images are kept unless they are BUSY,
and only the others measured; ``--fresh`` measures them again. With ``--work`` the images and the run without kills are
kept, too, and an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.by_reference import faulty_s3, readers, synthetic
from benchmarks.by_reference.images import synthetic as synthetic_images
from benchmarks.by_reference.rows import Rows
from benchmarks.by_reference.synthetic import Work
from benchmarks.installation import machine

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """Measure and report; 1 where a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="synthetic images (default: %(default)d)")
    parser.add_argument("--work", type=Path, help="folder of images and scores, kept for the next run")
    parser.add_argument("--rows", nargs="*", default=[], help="patterns of rows, such as 'bulk/*'")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    parser.add_argument(
        "--random-kills",
        type=int,
        metavar="N",
        help="kill N times at random moments (default: once in each of ten spans of the first 60 %%)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of by_reference.json and by_reference.md")
    arguments = parser.parse_args()
    rows = Rows(arguments.out, arguments.images, machine(), fresh=arguments.fresh, patterns=arguments.rows)
    with tempfile.TemporaryDirectory(prefix="snf-by-reference-") as temporary:
        folder = (arguments.work or Path(temporary)).resolve()
        images = synthetic_images(folder / f"images-{arguments.images}", arguments.images)
        work = Work(rows, images, arguments.images, folder, arguments.random_kills)
        for module in (readers, faulty_s3, synthetic):
            module.measure(work)
    print(rows.text())
    return 0 if rows.all_passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
