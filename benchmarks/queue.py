"""Ten thousand waiting jobs: ``python -m benchmarks.queue [--jobs 10000] [--clients 4]``.

A broker and a service run, and nobody who works. Jobs are submitted over HTTP, the list is read page by page, and
single jobs are read. The clients are on the same machine and take their share of it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, free_port, machine, parser_of, percentile, table, write_results
from benchmarks.installation import PatientClient, find, resident_bytes, running, temporary_home, until

REQUEST = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny", "model": "waiting"}
ROLES = ("service", "server")
PAGE, SINGLE = 200, 1000
QUANTILES = {"p50": 0.5, "p99": 0.99, "worst": 1.0}


def ask(client: PatientClient, method: str, path: str, **options: Any) -> tuple[Any, float]:
    """Return the JSON answer of a call and the seconds it took; raises ``httpx.HTTPStatusError``."""
    started = time.perf_counter()
    answer = client.request(method, path, **options).raise_for_status()
    return answer.json(), time.perf_counter() - started


def submit(port: int, count: int) -> list[tuple[str, float]]:
    """Submit jobs one after the other; return each one's id and how long it took."""
    with PatientClient(port) as client:
        answers = [ask(client, "POST", "/v1/jobs", json=REQUEST) for _ in range(count)]
    return [(job["id"], seconds) for job, seconds in answers]


def read_list(client: PatientClient, most: int) -> tuple[set[str], list[float]]:
    """Return the jobs that the pages of the list hold, and how long each page took."""
    seen: set[str] = set()
    seconds: list[float] = []
    query: dict[str, Any] = {"limit": PAGE}
    while len(seconds) <= most // PAGE + 1:
        page, took = ask(client, "GET", "/v1/jobs", params=query)
        seconds.append(took)
        seen.update(job["id"] for job in page["jobs"])
        if page["next"] is None:
            break
        query["after"] = page["next"]
    return seen, seconds


def memory(home: Path) -> dict[str, float]:
    """Return the resident MiB of service and broker."""
    found = {role: find(home, role) for role in ROLES}
    return {role: resident_bytes(process.pid) / 2**20 for role, process in found.items() if process is not None}


def measure(count: int, clients: int, home: Path) -> dict[str, Any]:
    """Fill the queue and read it."""
    settings = {"port": free_port(), "runtime_dir": home / "run", "max_jobs": count, "max_jobs_per_caller": count}
    with (
        running("snf_worker.broker.embedded", home=home, **settings),
        running("snf_app.server", home=home, **settings) as service,
        PatientClient(settings["port"]) as client,
    ):
        client.await_ready(service)
        until("broker", 30, lambda: client.document("/readyz")["jobs"] == "ok")
        before = memory(home)
        shares = [count // clients + (number < count % clients) for number in range(clients)]
        with ThreadPoolExecutor(clients) as pool:
            made = [one for found in pool.map(lambda share: submit(settings["port"], share), shares) for one in found]
        seen, pages = read_list(client, count)
        single = [ask(client, "GET", f"/v1/jobs/{job}")[1] for job, _ in made[:: max(1, count // SINGLE)]]
        calls = {f"submit, {clients} clients": [s for _, s in made], f"page of {PAGE}": pages, "one job": single}
        return {
            "jobs": count,
            "listed": len(seen & {job for job, _ in made}),
            "ms": {
                name: {"calls": len(times), **{q: 1e3 * percentile(times, at) for q, at in QUANTILES.items()}}
                for name, times in calls.items()
            },
            "memory_mib": {"before": before, "with the jobs waiting": memory(home)},
        }


def text_of(found: dict[str, Any], described: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    times = [[name, row["calls"], *(f"{row[key]:.1f} ms" for key in QUANTILES)] for name, row in found["ms"].items()]
    used = [[when, *(f"{mib[role]:.0f} MiB" for role in ROLES)] for when, mib in found["memory_mib"].items()]
    lines = [
        f"# {found['jobs']} waiting jobs",
        "",
        f"{described['cpu']}, {described['cores']} cores, shared by service, broker and clients; "
        f"{found['listed']} are listed.",
        "",
        *table(["call", "calls", *QUANTILES], times),
        "",
        *table(["resident memory", "service", "broker"], used),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and report; 1 where jobs are missing in the list."""
    parser = parser_of("queue", __doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4, help="threads that submit at once")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of queue.json and queue.md")
    arguments = parser.parse_args()
    described = machine()
    with temporary_home("queue") as home:
        found = measure(arguments.jobs, arguments.clients, home)
    text = text_of(found, described)
    print(text)
    write_results(arguments.out, "queue", {"machine": described, **found}, text)
    return 0 if found["listed"] == found["jobs"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
