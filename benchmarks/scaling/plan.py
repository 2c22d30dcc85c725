"""A plan from measured costs: ``python -m benchmarks.scaling plan --images-per-second 10000 --images 1e9 --hours 24``.

Online, each replica is a process with one scoring thread and an event loop, on two cores of its own, and the load
balancer divides a Poisson stream at random; the simulation of one replica gives the latency. In bulk, each process
scores in one thread on a core of its own.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.by_reference.images import FILE_IMAGES, LAYOUTS
from benchmarks.scaling.simulation import Costs, Outcome, Simulation
from models.bulk.plan import part_size
from worker.runtime.assist import MAX_ASSISTANTS

SIMULATED_S = 120.0
PROCESSES = 2
"""Processes of the row bulk/rate."""
WITHIN_MEMORY = 0.9
"""Rate of images by reference over that of images in memory, as ``benchmarks.by_reference`` requires."""
LISTED = 1_000
"""Files that S3 names in an answer to a listing request."""


class Missing(Exception):
    """Results that a plan needs were not measured; the message begins with ``needs``."""


@dataclass(frozen=True)
class Inputs:
    """What a plan rests on, all of it measured, and the choices of who plans."""

    images_per_second: float
    images: int
    hours: float
    load: float
    cores_per_machine: int
    costs: Costs
    core_images_per_second: float
    core_measured_by: str
    layout: str
    images_a_file: int
    image_bytes: float
    requests_an_image: float
    index_bytes_an_image: float
    row_bytes: float
    job_commands: float
    shard_commands: float
    shard_bytes: float
    busy_commands_per_s: float
    busy_bytes_per_s: float
    busy_broker_cpu: float


@dataclass(frozen=True)
class Online:
    """Replicas for a rate of single images."""

    replica_per_s: float
    replicas: int
    cores: int
    machines: int
    latency: Outcome


@dataclass(frozen=True)
class Bulk:
    """Processes for a number of images in a time."""

    core_hours: float
    processes: int
    machines: int
    files: int
    shard_minutes: float
    jobs: int
    read_terabytes: float
    read_bytes_per_s: float
    reads: float
    reads_per_s: float
    listings: int
    index_bytes: float
    writes: float
    written_terabytes: float
    commands: float
    commands_per_s: float
    broker_bytes_per_s: float
    broker_cpu: float


@dataclass(frozen=True)
class Plan:
    """A plan with what it rests on."""

    inputs: Inputs
    online: Online
    bulk: Bulk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a plan."""
    parser.add_argument("--images-per-second", type=float, default=1e4, help="online (default: %(default)g)")
    parser.add_argument("--images", type=float, default=1e9, help="in bulk (default: %(default)g)")
    parser.add_argument("--hours", type=float, default=24.0, help="time for them (default: %(default)g)")
    parser.add_argument("--load", type=float, default=0.6, help="share of the capacity online (default: %(default)g)")
    parser.add_argument("--cores-per-machine", type=int, default=32, help="(default: %(default)d)")
    parser.add_argument("--core-images-per-second", type=float, help="of one thread in bulk (default: as measured)")
    parser.add_argument("--layout", choices=LAYOUTS, default="parquet", help="of the images (default: %(default)s)")
    parser.add_argument("--image-bytes", type=float, help="bytes read of an image file (default: as measured)")


def inputs_of(arguments: argparse.Namespace, results: Path) -> Inputs:
    """Return the measured costs with the choices of the command line. Raises ``Missing`` without results."""
    load, broker, reference = (
        read_results(results, name) for name in ("scaling_replicas", "scaling_broker", "by_reference")
    )
    storage = fact(reference, "layouts", "s3/requests")[arguments.layout]
    core, by = core_rate(reference) if (own := arguments.core_images_per_second) is None else (own, "given")
    return Inputs(
        images_per_second=arguments.images_per_second,
        images=int(arguments.images),
        hours=arguments.hours,
        load=arguments.load,
        cores_per_machine=arguments.cores_per_machine,
        costs=Costs(**load["costs"]),
        core_images_per_second=core,
        core_measured_by=by,
        layout=LAYOUTS[arguments.layout],
        images_a_file=1 if arguments.layout == "files" else FILE_IMAGES,
        image_bytes=arguments.image_bytes or storage["read_bytes_an_image"],
        requests_an_image=storage["reads_an_image"],
        index_bytes_an_image=storage["index_bytes_an_image"],
        row_bytes=storage["written_bytes_an_image"],
        job_commands=broker["job"]["commands"],
        shard_commands=broker["shard"]["commands"],
        shard_bytes=broker["shard"]["received"] + broker["shard"]["sent"],
        busy_commands_per_s=broker["busy_worker_a_second"]["commands"],
        busy_bytes_per_s=broker["busy_worker_a_second"]["received"] + broker["busy_worker_a_second"]["sent"],
        busy_broker_cpu=broker["busy_worker_a_second"]["cpu_s"],
    )


def fact(reference: dict[str, Any], name: str, row: str) -> Any:
    """Return a figure of ``benchmarks.by_reference``. Raises ``Missing`` if its row was not measured."""
    if name not in reference["storage"]:
        raise Missing(f"needs the row `{row}`: `python -m benchmarks.by_reference --rows {row}`")
    return reference["storage"][name]


def core_rate(reference: dict[str, Any]) -> tuple[float, str]:
    """Return the images a second of one thread in bulk, and how they were measured."""
    rates = [row for row in reference["rows"] if row["key"] == "bulk/rate" and row["verdict"] != "BUSY"]
    if rates:
        together = rates[0]["details"]["images_per_second"]
        return together / PROCESSES, f"`snf bulk` with {PROCESSES} processes at once, each counted for its share"
    alone = fact(reference, "core_images_per_second", "two")
    return WITHIN_MEMORY * alone, f"{WITHIN_MEMORY:g} of one process alone on images in memory"


def read_results(results: Path, name: str) -> dict[str, Any]:
    """Return the results of a benchmark. Raises ``Missing`` if there are none."""
    path = results / f"{name}.json"
    if not path.is_file():
        raise Missing(f"needs {path.name}, which docs/figures.md has the command of")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def online(given: Inputs) -> Online:
    """Return the replicas for a rate: each with an event loop and a scoring thread, whichever is full first."""
    costs = given.costs
    most = min(costs.most_per_second, costs.most_requests_per_second)
    replicas = math.ceil(given.images_per_second / (given.load * most))
    rate = given.images_per_second / replicas
    latency = Simulation(costs, 1, math.inf).poisson(rate, SIMULATED_S, seed=0)
    return Online(most, replicas, 2 * replicas, math.ceil(2 * replicas / given.cores_per_machine), latency)


def bulk(given: Inputs) -> Bulk:
    """Return the processes for a number of images, and what they ask of storage and broker."""
    seconds = 3600 * given.hours
    core_seconds = given.images / given.core_images_per_second
    processes = math.ceil(core_seconds / seconds)
    size = part_size(given.images)
    files = math.ceil(given.images / size)
    reads = given.images * given.requests_an_image
    jobs = math.ceil(processes / (1 + MAX_ASSISTANTS))
    commands = jobs * given.job_commands + files * given.shard_commands + given.busy_commands_per_s * core_seconds
    return Bulk(
        core_hours=core_seconds / 3600,
        processes=processes,
        machines=math.ceil(processes / given.cores_per_machine),
        files=files,
        shard_minutes=size / given.core_images_per_second / 60,
        jobs=jobs,
        read_terabytes=given.images * given.image_bytes / 1e12,
        read_bytes_per_s=given.images * given.image_bytes / seconds,
        reads=reads,
        reads_per_s=reads / seconds,
        listings=math.ceil(given.images / given.images_a_file / LISTED),
        index_bytes=given.images * given.index_bytes_an_image,
        writes=files + 2,
        written_terabytes=given.images * given.row_bytes / 1e12,
        commands=commands,
        commands_per_s=commands / seconds,
        broker_bytes_per_s=files * given.shard_bytes / seconds + given.busy_bytes_per_s * processes,
        broker_cpu=given.busy_broker_cpu * processes,
    )


def make(arguments: argparse.Namespace, results: Path) -> Plan:
    """Return the plan for the options of a command line."""
    given = inputs_of(arguments, results)
    return Plan(given, online(given), bulk(given))


def table(plan: Plan) -> list[str]:
    """Return a plan as lines of Markdown."""
    given, live, mass = plan.inputs, plan.online, plan.bulk
    rows = {
        f"**{given.images_per_second:,.0f} images/s online**": "",
        "most images/s of a replica (scoring thread or event loop)": f"{live.replica_per_s:.0f}",
        f"replicas at {given.load:.0%} of that": f"{live.replicas}",
        f"cores, two a replica; machines of {given.cores_per_machine} cores": f"{live.cores}; {live.machines}",
        "p50, p99 by the simulation": f"{live.latency.p50_ms:.0f} ms, {live.latency.p99_ms:.0f} ms",
        f"**{given.images:,} images in {given.hours:g} hours**": "",
        f"images/s of one thread ({given.core_measured_by})": f"{given.core_images_per_second:.0f}",
        "core-hours": f"{mass.core_hours:,.0f}",
        f"processes of one core; machines of {given.cores_per_machine} cores": f"{mass.processes}; {mass.machines}",
        "output files; minutes of work each": f"{mass.files:,}; {mass.shard_minutes:.0f}",
        "read from storage": f"{mass.read_terabytes:.2f} TB, {mass.read_bytes_per_s / 1e6:.0f} MB/s",
        f"read requests, for {given.layout}": f"{mass.reads:,.0f}, {mass.reads_per_s:.1f}/s",
        "requests of a listing, once for the index and once for each repeated command": f"{mass.listings:,}",
        "index on a disk that all processes share": f"{mass.index_bytes / 1e9:.3g} GB, "
        f"{given.index_bytes_an_image:.3g} bytes an image",
        "written to storage": f"{mass.written_terabytes:.3f} TB in {mass.writes:,.0f} requests",
        f"jobs with Celery workers, of at most {1 + MAX_ASSISTANTS} workers each": f"{mass.jobs}",
        "Redis commands with a worker for each core": f"{mass.commands:,.0f}, {mass.commands_per_s:.0f}/s",
        "Redis traffic; share of its one core": f"{mass.broker_bytes_per_s / 1e6:.1f} MB/s; {mass.broker_cpu:.0%}",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def text_of(plan: Plan) -> str:
    """Return a plan as Markdown."""
    return "\n".join(table(plan))
