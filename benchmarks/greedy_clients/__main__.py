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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, machine, parser_of, percentile, read_results, table, write_results
from benchmarks.greedy_clients.polite import PAUSE_S, PoliteClient, memory_growth
from benchmarks.greedy_clients.ways import DECODING, WAYS
from benchmarks.installation import serving, temporary_home
from snf_models.registry.registry import ZOO, Registry

BATCH = 32
BATCHES = 15
TIMES = 4
RESIZING = "resizing"
"""The model of clients that send files to be resized: the shipped one, with another preprocessing."""
WARM_S = 3.0


def resizing_artifact(home: Path, name: str) -> Path:
    """Return an artifact that brings images of any size and colour to those of a shipped model."""
    artifact = home / RESIZING
    shutil.copytree(ZOO / name / "1", artifact)
    file = artifact / "manifest.json"
    manifest = json.loads(file.read_text())
    colour = "grey" if manifest["preprocessing"]["channels"] == 1 else "rgb"
    manifest["preprocessing"] |= {"fit": "stretch", "colour": colour}
    file.write_text(json.dumps(manifest))
    return artifact


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


def measure(way: str, model: str, home: Path, seconds: float) -> dict[str, Any]:
    """Measure one way against a new service."""
    with serving(home) as service, closing(PoliteClient(service.port, model)) as polite:
        polite.batch_seconds(BATCH, 5)
        batch = 1000 * polite.batch_seconds(BATCH, BATCHES)
        alone = polite.score_for(seconds / 3)
        polite.wrongs.clear()
        with memory_growth(service.pid) as growth, greedy(way, model, service.port):
            polite.score_for(WARM_S)  # while the greedy client starts
            beside = polite.score_for(seconds)
    wrongs = {name: polite.wrongs[name] for name in ("refused", "failed", "wrong")}
    times = {
        f"{name}{share}_ms": 1000 * percentile(took, int(share) / 100)
        for name, took in (("alone_p", alone), ("p", beside))
        for share in ("50", "99")
    }
    passed = not any(wrongs.values()) and times["p99_ms"] <= TIMES * batch
    found = {"way": way, "requests": len(beside), **wrongs, "batch_ms": batch, **times}
    return found | {"memory_mb": max(growth) / 1e6, "verdict": "PASS" if passed else "FAIL"}


def report(found: dict[str, Any]) -> str:
    on = found["machine"]
    text = (
        f"{on['cpu']}, {on['cores']} cores, shared by service and clients; {found['model']}. Single images of the "
        f"polite client, {1000 * PAUSE_S:.0f} ms between them; batch: {BATCH} images alone; must: p99 at most {TIMES} "
        "times that, none refused, failed or wrong. Memory: the service's at its worst moment, above what it had "
        "before. `files`: of the same model with another preprocessing, which resizes images and decodes in threads."
    )
    heads = (
        "greedy client",
        "alone p50/p99 ms",
        "beside p50/p99 ms",
        "batch ms",
        "refused, failed, wrong",
        "memory MB",
    )
    rows = [
        (
            row["way"],
            f"{row['alone_p50_ms']:.1f} / {row['alone_p99_ms']:.1f}",
            f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}",
            f"{row['batch_ms']:.1f}",
            f"{row['refused']}, {row['failed']}, {row['wrong']} of {row['requests']}",
            f"{row['memory_mb']:+.0f}",
            row["verdict"],
        )
        for row in found["rows"]
    ]
    return "\n".join(["# A greedy client beside a polite one", "", text, "", *table((*heads, ""), rows), ""])


def main() -> None:
    """Measure all ways, or be the greedy client of one."""
    parser = parser_of("greedy_clients", __doc__)
    parser.add_argument("--model", default="cifar10-snf-glow", help="a shipped model (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="time beside each greedy client")
    parser.add_argument("--only", default="", help="measure only ways with this in their name, and keep other results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--greedy", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.greedy:
        be_greedy(options.greedy, options.model, options.port)
        return
    earlier = read_results(options.results / "greedy_clients.json") if options.only else {}
    rows: dict[str, dict[str, Any]] = {row["way"]: row for row in earlier.get("rows", [])}
    found = {"machine": machine(), "model": options.model, "seconds": options.seconds}
    with temporary_home("greedy") as home:
        Registry(home / "registry").publish(resizing_artifact(home, options.model), RESIZING, promote=True)
        for way in WAYS:
            if options.only in way:
                rows[way] = measure(way, RESIZING if way in DECODING else options.model, home, options.seconds)
                print(json.dumps(rows[way]), flush=True)
                found["rows"] = [rows[way] for way in WAYS if way in rows]
                write_results(options.results, "greedy_clients", found, report(found))
    print(report(found))


if __name__ == "__main__":
    main()
