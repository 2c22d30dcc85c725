"""Scaling: replicas of the service, what jobs cost the broker, and plans: ``python -m benchmarks.scaling COMMAND``.

- replicas: load test of one and two replicas beside a simulation of them (``scaling_replicas.json``)
- broker: Redis commands and bytes of a score job, a shard and an idle worker (``scaling_broker.json``)
- plan: cores, machines, hours, storage and broker load for a rate online or a number of images in bulk
- page: writes the tables of ``docs/scaling.md`` anew, from the results of the commands above and of
  ``benchmarks.by_reference``; ``python -m benchmarks.scaling.plot`` draws its picture before
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.installation import machine, temporary_home, write_results
from benchmarks.needs import end
from benchmarks.scaling import broker, page, plan, replicas

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """Run a command; 1 where an answer of the load test was wrong, or the simulation is out of its bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("replicas", help="load test beside the simulation")
    load.add_argument("--model", default="cifar10-snf-glow", help="a shipped model (default: %(default)s)")
    load.add_argument("--seconds", type=float, default=60.0, help="time of each rate (default: %(default)g)")
    redis = commands.add_parser("broker", help="what jobs cost the broker")
    redis.add_argument("--images", type=int, nargs=2, default=[2_000, 30_000], help="sizes of two jobs")
    plan.add_arguments(commands.add_parser("plan", help="a plan from the results"))
    commands.add_parser("page", help="write docs/scaling.md anew")
    for command in (load, redis):
        command.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    described = machine()
    if arguments.command == "plan":
        try:
            print(plan.text_of(plan.make(arguments, RESULTS)))
        except plan.Missing as missing:
            end(str(missing))
        return 0
    if arguments.command == "page":
        page.write(RESULTS)
        return 0
    with temporary_home("scaling") as home:
        if arguments.command == "replicas":
            found = replicas.measure(arguments.model, arguments.seconds, home)
            text, good = replicas.text_of(found, described), replicas.all_right(found) and replicas.within_bounds(found)
        else:
            few, many = arguments.images
            found = broker.measure(few, many, home)
            text, good = broker.text_of(found, described), True
    print(text)
    write_results(arguments.out, f"scaling_{arguments.command}", {"machine": described, **found}, text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
