"""What jobs cost the broker: Redis commands and bytes of an idle worker, of a busy one, of a score job and a shard.

Three jobs run after each other on one worker: one of few images, one of many, and one of as many in smaller shards. The
third takes more than the second for its shards alone, the second more than the first for the time that it scores. What
an idle worker does is measured before.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bulk import MODEL, Workplace, broker_answers, moment
from benchmarks.by_reference.rows import busy_cores
from benchmarks.installation import running, until
from snf_models.datasets import DatasetStore, Source
from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job
from snf_worker.settings import Settings

IDLE_S = 20.0
PART, FINER = 2_000, 8
"""Images of a shard, and how many times smaller those of the third job are."""


@dataclass(frozen=True)
class Traffic:
    """What a Redis server did: commands, bytes received and sent, seconds of its CPU, and the seconds that passed."""

    commands: float
    received: float
    sent: float
    cpu_s: float
    seconds: float

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(**{name: value - getattr(other, name) for name, value in asdict(self).items()})

    def times(self, factor: float) -> Traffic:
        """Return so many times this traffic."""
        return Traffic(**{name: factor * value for name, value in asdict(self).items()})


def traffic(place: Workplace) -> Traffic:
    """Return what the server of a workplace did since it started."""
    info: Any = redis_client(place.settings).info()
    return Traffic(
        info["total_commands_processed"],
        info["total_net_input_bytes"],
        info["total_net_output_bytes"],
        info["used_cpu_sys"] + info["used_cpu_user"],
        time.monotonic(),
    )


def measure(few: int, many: int, home: Path) -> dict[str, Any]:
    """Return the traffic of an idle and of a busy worker a second, of a job and of a shard."""
    others = busy_cores()
    settings = Settings(home=home, runtime_dir=home / "run")
    random = np.random.default_rng(0)
    for name, count in (("few", few), ("many", many)):
        np.savez(home / f"{name}.npz", x_train=random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        DatasetStore(settings.datasets_dir).create(name, [Source(home / f"{name}.npz", f"{name}.npz")])
    jobs = {"few": ("few", few, PART), "many": ("many", many, PART), "fine": ("many", many, PART // FINER)}
    taken: dict[str, Traffic] = {}
    with running("snf_worker.broker.embedded", home=home, runtime_dir=home / "run"):
        place = Workplace(settings)
        until("the broker", 60, lambda: broker_answers(place))
        with place.workers(1, 1):
            time.sleep(5)  # a worker asks more while it starts
            before = traffic(place)
            time.sleep(IDLE_S)
            idle = traffic(place) - before
            for name, (dataset, _, size) in jobs.items():
                before = traffic(place)
                job = place.finish(place.submit(dataset, images_per_part=size))
                taken[name] = replace(traffic(place) - before, seconds=scoring_seconds(place, job))
    shards = {name: -(-count // size) for name, (_, count, size) in jobs.items()}
    costs = divide(taken, shards)
    return {
        "model": MODEL,
        "busy_cores": others,
        "images": {"few": few, "many": many},
        "shards": shards,
        "idle_worker_a_second": asdict(idle.times(1 / idle.seconds)),
        **{name: asdict(cost) for name, cost in costs.items()},
    }


def scoring_seconds(place: Workplace, job: Job) -> float:
    """Return the seconds in which a job scored; those in which its process starts count for the job."""
    return moment(place.events(job, "checkpoint")[-1]) - moment(place.events(job, "started")[0])


def divide(taken: dict[str, Traffic], shards: dict[str, int]) -> dict[str, Traffic]:
    """Return the traffic of a job, of a shard and of a second, of which that of the three jobs is the sum."""
    names = ("few", "many", "fine")
    parts = np.array([[1.0, shards[name], taken[name].seconds] for name in names])
    totals = np.array([list(asdict(taken[name]).values()) for name in names])
    found = np.linalg.solve(parts, totals)
    return dict(
        zip(("job", "shard", "busy_worker_a_second"), (Traffic(*map(float, row)) for row in found), strict=True)
    )


def table(found: dict[str, Any]) -> list[str]:
    """Return the costs as lines of Markdown."""
    lines = ["| of | commands | bytes received | bytes sent | ms of CPU |", "|---|---|---|---|---|"]
    names = {
        "idle_worker_a_second": "an idle worker, a second",
        "busy_worker_a_second": "a worker that scores, a second",
        "job": "a job, beside these",
        "shard": "a part, beside these",
    }
    for key, name in names.items():
        cost = found[key]
        lines.append(
            f"| {name} | {cost['commands']:.1f} | {cost['received']:,.0f} | {cost['sent']:,.0f} "
            f"| {1e3 * cost['cpu_s']:.2f} |"
        )
    return lines


def text_of(found: dict[str, Any], described: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# What jobs cost the broker",
        "",
        f"{described['cpu']}, load {described['load_before']:.1f} before. Three score jobs on one worker, of "
        f"{', '.join(map(str, found['shards'].values()))} parts.",
        "",
        *table(found),
    ]
    return "\n".join(lines) + "\n"
