"""Scaling: replicas of the service and what jobs cost the broker: ``python -m benchmarks.scaling COMMAND``.

- replicas: load test of one and two replicas (``scaling_replicas.json``)
- broker: Redis commands and bytes of a score job, a shard and an idle worker (``scaling_broker.json``)
- page: writes the tables of ``docs/scaling.md`` anew, from the results of the commands above and of
  ``benchmarks.by_reference``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.installation import machine, temporary_home, write_results
from benchmarks.scaling import broker, page, replicas

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """Run a command; 1 where an answer of the load test was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("replicas", help="load test of one and two replicas")
    load.add_argument("--model", default="cifar10-snf-glow", help="a shipped model (default: %(default)s)")
    load.add_argument("--seconds", type=float, default=60.0, help="time of each rate (default: %(default)g)")
    redis = commands.add_parser("broker", help="what jobs cost the broker")
    redis.add_argument("--images", type=int, nargs=2, default=[2_000, 30_000], help="sizes of two jobs")
    commands.add_parser("page", help="write docs/scaling.md anew")
    for command in (load, redis):
        command.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    described = machine()
    if arguments.command == "page":
        page.write(RESULTS)
        return 0
    with temporary_home("scaling") as home:
        if arguments.command == "replicas":
            found = replicas.measure(arguments.model, arguments.seconds, home)
            text, good = replicas.text_of(found, described), replicas.all_right(found)
        else:
            few, many = arguments.images
            found = broker.measure(few, many, home)
            text, good = broker.text_of(found, described), True
    print(text)
    write_results(arguments.out, f"scaling_{arguments.command}", {"machine": described, **found}, text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
