"""Uploads that want to hurt the service: ``python -m benchmarks.hostile_uploads [--mutations 2000] [--clients 2]``.

``snf up`` runs. Bombs (headers, shapes and archives that are made to cost time or memory) and mutated archives are
uploaded over HTTP, while another process asks ``/healthz`` all the time and the memory of the service and of the
processes that read the uploads is watched. Datasets that the service could make of a mutated upload are deleted again.
Clients and service share the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.installation import (
    PatientClient,
    find,
    machine,
    percentile,
    processes,
    resident_bytes,
    snf_up,
    temporary_home,
    write_results,
)
from benchmarks.mutations import VALID, mutation
from tests.end_to_end.support.uploads import left
from tests.models.datasets.hostile_files import ARRAYS, MIB, TARS, endless_groups, npy_of, npz_of, white_images

RESULTS = Path(__file__).parent / "results"
PAUSE_S = 0.01
"""Time between two questions to ``/healthz``, and between two looks at the memory."""
MOST_P99_MS, MAX_GROWTH_MB = 50.0, 50.0
WARM_UP = 8
Files = list[tuple[str, bytes]]


@dataclass
class Outcome:
    """What became of one upload."""

    name: str
    sent: int
    status: int
    slug: str
    seconds: float


@dataclass
class Memory:
    """Resident bytes of the service, and of the processes that read uploads, all together."""

    service: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield the uploads that are made to hurt."""
    for name, (tar, _, _) in TARS.items():
        yield f"tar: {name}", tar
    for name, (array, _) in ARRAYS.items():
        yield f"array: {name}", array
    yield "npz of 700 MiB in a negative number of groups", endless_groups(700 * MIB)
    yield "npz with a header of 256 MiB", npz_of(images=npy_of("(12, 28, 28)", padding=256 * MIB))
    yield "npz of 256 MiB of images", npz_of(images=npy_of("(350000, 28, 28)", bytes(256 * MIB)))
    yield "zip of 9 white images of 16 million pixels", white_images(9)
    yield "line ends", b"\r\n" * (4 * MIB)


def ask_healthz(port: int, results: Connection) -> None:
    """Ask ``/healthz`` until a message arrives; send "ready", then the seconds of every answer, -1 for a wrong one."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    seconds = []
    results.send("ready")
    while not results.poll(PAUSE_S):
        started = time.perf_counter()
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - started if answer.status == 200 else -1.0)
    results.send(seconds)


@contextmanager
def asking(port: int, found: list[float]) -> Iterator[None]:
    """Ask ``/healthz`` from another process until the block ends; ``found`` gets the seconds."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=ask_healthz, args=(port, there), daemon=True)
    process.start()
    try:
        here.recv()  # on a busy machine the process takes seconds to start
        yield
        here.send("enough")
        found += here.recv()
    finally:
        process.terminate()
        process.join()


@contextmanager
def watching(home: Path, memory: Memory) -> Iterator[None]:
    """Look at the memory until the block ends."""
    service, enough = find(home, "service"), threading.Event()
    if service is None:
        raise RuntimeError("there is no service")

    def watch() -> None:
        while not enough.wait(10 * PAUSE_S):
            readers = 0
            for process in processes(home):
                if process.role == "reader":
                    with suppress(OSError, StopIteration):  # it ended meanwhile
                        readers += resident_bytes(process.pid)
            memory.readers.append(readers)

    def watch_service() -> None:
        while not enough.wait(PAUSE_S):
            memory.service.append(resident_bytes(service.pid))

    threads = [threading.Thread(target=target) for target in (watch, watch_service)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


class Uploader:
    """Uploads files from several threads, each with a connection of its own."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._own = threading.local()
        self.refused = 0

    def send(self, index: int, name: str, files: Files) -> Outcome:
        """Upload once, waiting for a place; delete what became a dataset."""
        client = getattr(self._own, "client", None) or httpx.Client(base_url=self._url, timeout=600, trust_env=False)
        self._own.client = client
        dataset = f"upload-{index}"
        while True:
            started = time.perf_counter()
            answer = client.post("/v1/datasets", data={"name": dataset}, files=[("file", one) for one in files])
            seconds = time.perf_counter() - started
            if answer.status_code != 429:
                break
            self.refused += 1
            time.sleep(0.2)
        if answer.status_code == 201:
            client.delete(f"/v1/datasets/{dataset}").raise_for_status()
        slug = "" if answer.status_code == 201 else str(answer.json()["type"])
        return Outcome(name, sum(len(data) for _, data in files), answer.status_code, slug, seconds)


def send_all(uploader: Uploader, mutations: int, clients: int) -> tuple[list[Outcome], list[Outcome]]:
    """Upload the bombs, then the mutations; return what became of each."""
    with ThreadPoolExecutor(clients) as pool:
        sent = [pool.submit(uploader.send, n, name, [("bomb", data)]) for n, (name, data) in enumerate(bombs())]
        hurt = [one.result() for one in sent]
        print(f"{len(hurt)} bombs: {dict(Counter(one.status for one in hurt))}", flush=True)

        def mutated(index: int) -> Outcome:
            name, files = mutation(index)
            if index % 200 == 199:
                print(f"{index + 1} mutations", flush=True)
            return uploader.send(10_000 + index, f"{index}: {name}", files)

        return hurt, list(pool.map(mutated, range(mutations)))


def measure(mutations: int, clients: int, home: Path) -> dict[str, Any]:
    """Run the service, hurt it, and return the figures."""
    quiet: list[float] = []
    busy: list[float] = []
    memory = Memory()
    with snf_up(home) as client:
        uploader = Uploader(client.port)
        for index in range(WARM_UP):
            uploader.send(index, "warm up", [("upload", VALID["tar.gz"])])
        with asking(client.port, quiet):
            time.sleep(5)
        with watching(home, memory):
            time.sleep(1)
            before = memory.service[-1]
            started = time.perf_counter()
            with asking(client.port, busy):
                hurt, mutated = send_all(uploader, mutations, clients)
            seconds = time.perf_counter() - started
        remains = left(home) + stored(client)
    slow = sorted(hurt, key=lambda one: -one.seconds)[:10]
    return {
        "seconds": seconds,
        "uploads": len(hurt) + len(mutated),
        "bombs": dict(Counter(f"{one.status} {one.slug}".strip() for one in hurt)),
        "mutations": dict(Counter(f"{one.status} {one.slug}".strip() for one in mutated)),
        "wrong": [
            vars(one)
            for accepted, outcomes in ((range(400, 500), hurt), ([201, *range(400, 500)], mutated))
            for one in outcomes
            if one.status not in accepted
        ],
        "slowest_bombs": [vars(one) for one in slow],
        "waited_for_a_place": uploader.refused,
        "healthz": {"before": spread(quiet), "throughout": spread(busy)},
        "memory_mb": {
            "service before": before / 1e6,
            "service most": max(memory.service) / 1e6,
            "service after": memory.service[-1] / 1e6,
            "readers most": max(memory.readers) / 1e6,
        },
        "left": remains,
    }


def stored(client: PatientClient) -> list[str]:
    """Return the names of the uploaded datasets."""
    return [one["name"] for one in client.document("/v1/datasets")["datasets"] if one["origin"] == "stored"]


def spread(seconds: list[float]) -> dict[str, float]:
    """Return what the answers of ``/healthz`` come down to."""
    return {
        "asked": len(seconds),
        "failed": sum(one < 0 for one in seconds),
        "p50_ms": 1e3 * percentile(seconds, 0.5),
        "p99_ms": 1e3 * percentile(seconds, 0.99),
        "max_ms": 1e3 * max(seconds),
    }


def limits(found: dict[str, Any]) -> dict[str, bool]:
    """Return what must hold, and whether it does."""
    memory, healthz = found["memory_mb"], found["healthz"]["throughout"]
    growth = memory["service most"] - memory["service before"]
    return {
        "every bomb is answered with 4xx, every mutation with 201 or 4xx": not found["wrong"],
        f"/healthz p99 {healthz['p99_ms']:.1f} ms <= {MOST_P99_MS:g} ms": healthz["p99_ms"] <= MOST_P99_MS,
        "/healthz never fails": healthz["failed"] == 0,
        f"the service grows by {growth:.1f} MB < {MAX_GROWTH_MB:g} MB": growth < MAX_GROWTH_MB,
        "nothing is left in SNF_HOME": not found["left"],
    }


def text_of(found: dict[str, Any], described: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# Hostile uploads", "", f"{described['cpu']}, {described['cores']} cores, Python {described['python']}. "]
    lines[-1] += f"{found['uploads']} uploads in {found['seconds']:.0f} s, clients on the same machine."
    lines += ["", "| limit | |", "|---|---|"]
    lines += [f"| {name} | {'PASS' if held else 'FAIL'} |" for name, held in limits(found).items()]
    lines += ["", "| answers | bombs | mutations |", "|---|---|---|"]
    for answer in sorted(found["bombs"].keys() | found["mutations"].keys()):
        lines.append(f"| {answer} | {found['bombs'].get(answer, 0)} | {found['mutations'].get(answer, 0)} |")
    lines += ["", "| `/healthz` | asked | p50 | p99 | worst |", "|---|---|---|---|---|"]
    for when, row in found["healthz"].items():
        times = " | ".join(f"{row[key]:.1f} ms" for key in ("p50_ms", "p99_ms", "max_ms"))
        lines.append(f"| {when} | {row['asked']} | {times} |")
    lines += ["", "| resident memory | MB |", "|---|---|"]
    lines += [f"| {name} | {value:.0f} |" for name, value in found["memory_mb"].items()]
    lines += ["", "| slowest bombs | bytes | answer | s |", "|---|---|---|---|"]
    for one in found["slowest_bombs"]:
        lines.append(f"| {one['name']} | {one['sent']} | {one['status']} {one['slug']} | {one['seconds']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and report; 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_uploads", description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=2, help="uploads at once")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of hostile_uploads.json and .md")
    arguments = parser.parse_args()
    described = machine()
    with temporary_home("hostile") as home:
        found = measure(arguments.mutations, arguments.clients, home)
    text = text_of(found, described)
    print(text)
    write_results(arguments.out, "hostile_uploads", {"machine": described, **found}, text)
    return 0 if all(limits(found).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
