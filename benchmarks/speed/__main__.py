"""Our scorer and its peers side by side: ``python -m benchmarks.speed WHAT...``.

WHAT is score, sample, train, http, startup, or all. Every figure is a ratio of sides that take turns in one run, after
warming up. ``benchmarks/results/speed_<what>.json`` and ``.md`` are written after every row. Peers are installed from
the package index into environments of their own (:mod:`benchmarks.speed.peers`).
"""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path

from benchmarks.common import RESULTS, ROOT, cores, parser_of
from benchmarks.speed.results import Context, Results

WHAT = ("score", "sample", "train", "http", "startup")


def main() -> int:
    """Measure and report; 1 where a target is not met or a row could not be measured."""
    parser = parser_of("speed", __doc__)
    parser.add_argument("what", nargs="+", choices=[*WHAT, "all"], metavar="WHAT")
    parser.add_argument("--rounds", type=int, default=9, help="paired rounds that count")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="rows by key; * stands for anything")
    parser.add_argument("--threads", type=int, default=cores(), help="threads of every side")
    parser.add_argument("--images", type=int, default=64, help="images a turn")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load on a server a turn")
    parser.add_argument("--quick", action="store_true", help="try the benchmark out with tiny models; no result")
    parser.add_argument("--out", type=Path, help="folder of the results")
    arguments = parser.parse_args()
    chosen = WHAT if "all" in arguments.what else tuple(dict.fromkeys(arguments.what))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server may be left behind
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    out = arguments.out or (ROOT / "var" / "speed" / "quick" if arguments.quick else RESULTS)
    bad = 0
    for what in chosen:
        subject = importlib.import_module(f"benchmarks.speed.{what}")
        results = Results(what, subject.TITLE, arguments.threads, out)
        settings = (arguments.rounds, arguments.threads, arguments.images, arguments.seconds)
        subject.measure(Context(results, *settings, tuple(arguments.rows), arguments.quick))
        bad += sum(row["met"] is False or row["problem"] is not None for row in results.rows)
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
