"""Greedy clients beside a polite one: ``python -m benchmarks.greedy_clients [--only WORD]``.

For each way of being greedy a service is started anew. The polite client measures one full batch alone and single
images alone, then sends single images while the greedy one, in a process and from an address of its own, does what it
can. Both clients share the machine with the service and take their part of it.

A way passes where no single image of the polite client is refused, fails or gets another score, and where the 99th
percentile of its answers takes at most four times as long as a full batch alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.greedy_clients import decoding, scoring, sockets
from benchmarks.greedy_clients.polite import PAUSE_S, PoliteClient, watching_memory
from benchmarks.installation import PatientClient, machine, percentile, running
from snf_models.registry.registry import Registry
from tests.end_to_end.support.service import free_port
from tests.support.resizing import resizing_artifact

WAYS = {**sockets.WAYS, **scoring.WAYS, **decoding.WAYS}
RESULTS = Path(__file__).parents[1] / "results"
BATCH = 32
BATCHES = 15
TIMES = 4
RESIZING = "resizing"
"""The model of clients that send files to be resized: the shipped one, with another preprocessing."""
WARM_S = 3.0
Row = dict[str, Any]


@contextmanager
def greedy(way: str, model: str, port: int) -> Iterator[None]:
    """Run a greedy client in another process, from its first request until the block ends."""
    command = [sys.executable, "-m", "benchmarks.greedy_clients", "--greedy", way]
    command += ["--model", model, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it may take seconds to start and to make its requests
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the greedy client ended by itself: {way}")
    finally:
        process.kill()
        process.wait()


def be_greedy(way: str, model: str, port: int) -> None:
    """Do it until this process is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def client() -> None:
        await WAYS[way](port, model)

    asyncio.run(client())


def measure(way: str, model: str, home: Path, seconds: float) -> Row:
    """Measure one way against a new service."""
    port = free_port()
    with running("snf_app.server", home=home, port=port) as service, PatientClient(port) as patient:
        patient.await_ready(service)
        polite = PoliteClient(port, model)
        polite.batch_seconds(BATCH, 5)
        batch = polite.batch_seconds(BATCH, BATCHES)
        alone = polite.send(seconds / 3)
        with watching_memory(service.process.pid) as memory, greedy(way, model, port):
            first = polite.send(WARM_S)  # while the greedy client starts
            seen = polite.send(seconds)
        polite.close()
    row: Row = {
        "way": way,
        "requests": len(seen.seconds),
        "refused": first.refused + seen.refused,
        "failed": first.failed + seen.failed,
        "wrong": first.wrong + seen.wrong,
        "batch_ms": 1000 * batch,
        "alone_p50_ms": 1000 * percentile(alone.seconds, 0.5),
        "alone_p99_ms": 1000 * percentile(alone.seconds, 0.99),
        "p50_ms": 1000 * percentile(seen.seconds, 0.5),
        "p99_ms": 1000 * percentile(seen.seconds, 0.99),
        "memory_mb": memory.growth / 1e6,
    }
    undisturbed = row["refused"] == row["failed"] == row["wrong"] == 0
    return {**row, "verdict": "PASS" if undisturbed and row["p99_ms"] <= TIMES * row["batch_ms"] else "FAIL"}


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    on = found["machine"]
    lines = [
        "# A greedy client beside a polite one",
        "",
        f"{on['cpu']}, {on['cores']} cores, shared by service and clients; {found['model']}. "
        "Single images of the polite client, "
        f"{1000 * PAUSE_S:.0f} ms between them; batch: {BATCH} images alone; must: p99 at most {TIMES} times that, "
        "none refused, failed or wrong. Memory: the service's at its worst moment, above what it had before. "
        "`files`: of the same model with another preprocessing, which resizes images and decodes all in threads.",
        "",
        "| greedy client | alone p50/p99 ms | beside p50/p99 ms | batch ms | refused, failed, wrong | memory MB | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['way']} | {row['alone_p50_ms']:.1f} / {row['alone_p99_ms']:.1f} | {row['p50_ms']:.1f} / "
        f"{row['p99_ms']:.1f} | {row['batch_ms']:.1f} | {row['refused']}, {row['failed']}, {row['wrong']} of "
        f"{row['requests']} | {row['memory_mb']:+.0f} | {row['verdict']} |"
        for row in found["rows"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all ways, or be the greedy client of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10-snf-glow", help="a shipped model (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="time beside each greedy client")
    parser.add_argument(
        "--only", default="", help="measure only ways with this in their name, and keep the others of the results"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--greedy", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.greedy:
        be_greedy(options.greedy, options.model, options.port)
        return
    earlier = json.loads((options.results / "greedy_clients.json").read_text())["rows"] if options.only else []
    rows: dict[str, Row] = {row["way"]: row for row in earlier}
    home = Path(tempfile.mkdtemp(prefix="snf-greedy-"))
    try:
        Registry(home / "registry").publish(resizing_artifact(home, options.model), RESIZING, promote=True)
        for way in WAYS:
            if options.only in way:
                model = RESIZING if way in decoding.WAYS else options.model
                rows[way] = measure(way, model, home, options.seconds)
                print(json.dumps(rows[way]), flush=True)
    finally:
        shutil.rmtree(home)
    found = {"machine": machine(), "model": options.model, "seconds": options.seconds}
    found["rows"] = [rows[way] for way in WAYS if way in rows]
    (options.results / "greedy_clients.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.results / "greedy_clients.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
