"""What copies among the calibration images do to a conformal p-value, simulated with NumPy alone.

``python -m benchmarks.copies [--repetitions 20000]``

Each repetition draws the statistics of some different images, each in several copies, and that of one new image. A near
copy has the statistic of its image plus noise. The p-value is (1 + r) / (n + 1), where r of n ranks are at least as
anomalous: every copy gives a rank (before), or only the first copy of an image does (now). The rate is the share of
repetitions in which the new image gets the smallest p-value; it should not exceed that p-value.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
CASES = ((12, 4, 0.0), (12, 4, 0.1), (50, 2, 0.0), (50, 2, 0.1), (100, 1, 0.0))
"""Different images, copies of each, and the noise of a near copy in standard deviations of the statistic."""


def simulate(images: int, copies: int, noise: float, repetitions: int) -> dict[str, float]:
    """Return the smallest p-value and the share of new images that get it, with all ranks and with one a group."""
    random = np.random.default_rng((images, copies))
    of_images = random.normal(size=(repetitions, images, 1))
    calibration = of_images + noise * random.normal(size=(repetitions, images, copies))
    new = (random.normal(size=repetitions) + noise * random.normal(size=repetitions))[:, None, None]
    found: dict[str, float] = {"images": images, "copies": copies, "noise": noise, "repetitions": repetitions}
    for name, ranked in (("before", calibration), ("after", calibration[:, :, :1])):
        ranks = ranked.shape[1] * ranked.shape[2]
        p = (1 + (ranked >= new).sum((1, 2))) / (ranks + 1)
        found |= {f"stated_{name}": 1 / (ranks + 1), f"rate_{name}": float((p <= 1 / (ranks + 1)).mean())}
    return found


def report(rows: list[dict[str, float]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Copies among the calibration images",
        "",
        f"{rows[0]['repetitions']:,} repetitions each. Smallest p-value as stated, and how often a new image gets it, "
        "with twice its standard error.",
        "",
        "| different images | copies of each | noise of a copy | stated before | rate before | stated now | rate now |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = []
        for when in ("before", "after"):
            rate = row[f"rate_{when}"]
            error = 2 * (rate * (1 - rate) / row["repetitions"]) ** 0.5
            shares += [f"{row[f'stated_{when}']:.2%}", f"{rate:.2%} ± {error:.2%}"]
        lines.append(f"| {row['images']} | {row['copies']} | {row['noise']:g} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate all cases, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20_000)
    repetitions = parser.parse_args().repetitions
    rows = [simulate(*case, repetitions) for case in CASES]
    (RESULTS / "copies.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "copies.md").write_text(report(rows), encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    main()
