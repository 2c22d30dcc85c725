"""Picture of the simulated and measured latency by load: ``python -m benchmarks.scaling.plot``.

It reads ``scaling_replicas.json`` and writes ``docs/images/scaling.svg``, with the digest of what it was drawn from.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.needs import end, extra
from benchmarks.scaling import page
from benchmarks.scaling.plan import Missing, read_results
from benchmarks.scaling.simulation import Costs, Simulation

with extra("bench"):
    import matplotlib as mpl

    mpl.use("Agg")

    from matplotlib import pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"
LOADS = [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4]
SECONDS = 60.0


def main() -> None:
    """Draw the picture."""
    ArgumentParser(prog="python -m benchmarks.scaling.plot", description=__doc__).parse_args()
    try:
        found = read_results(RESULTS, "scaling_replicas")
    except Missing as missing:
        end(str(missing))
    costs = Costs(**found["costs"])
    mpl.rcParams["svg.hashsalt"] = "scaling"  # equal results give an equal file
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6))
    for count, colour in ((1, "#0e6480"), (2, "#b3441e")):
        most = found["capacity"][str(count)]["simulated_per_s"]
        curve = [
            Simulation(costs, count, max(1.0, found["compute_limit"])).poisson(load * most, SECONDS, 0)
            for load in LOADS
        ]
        name = f"{count} replica{'s' if count > 1 else ''}"
        left.plot(
            [load * most for load in LOADS], [one.p99_ms for one in curve], color=colour, label=f"{name}, simulated"
        )
        rows = [row for row in found["rows"] if row["replicas"] == count]
        offered, late = [row["offered_per_s"] for row in rows], [row["measured"]["p99_ms"] for row in rows]
        left.plot(offered, late, "o", color=colour, label=f"{name}, measured")
    left.set(xlabel="images/s offered, on the machine of the load test", ylabel="p99 in ms", yscale="log")
    left.legend(fontsize=8)
    for count in (1, 2, 4, 8):
        most = count * min(costs.most_per_second, costs.most_requests_per_second)
        curve = [Simulation(costs, count, math.inf).poisson(load * most, SECONDS, 0) for load in LOADS]
        right.plot([load * most for load in LOADS], [one.admitted_per_s for one in curve], label=f"{count}")
    right.set(xlabel="images/s offered, cores for all (simulated)", ylabel="images/s scored")
    right.legend(title="replicas", fontsize=8)
    figure.tight_layout()
    figure.savefig(page.PICTURE, metadata={"Date": None, "Description": page.digest(RESULTS)})
    print(page.PICTURE)


if __name__ == "__main__":
    main()
