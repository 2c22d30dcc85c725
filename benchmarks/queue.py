"""Ten thousand waiting jobs: ``python -m benchmarks.queue [--jobs 10000] [--clients 4] [--calls 1000]``.

A broker and a service run, and at first nobody who works. Jobs are submitted over HTTP, the first ones by one client,
so that their order is known, the others by several at once. Then pages of the list are read from random cursors, with
and without a filter, and single jobs, and images are scored as before. At last a worker starts and must take the first
jobs first. The clients are on the same machine and take their share of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import (
    DIGITS,
    RESULTS,
    free_port,
    machine,
    parser_of,
    percentile,
    table,
    write_results,
)
from benchmarks.installation import PatientClient, find, resident_bytes, running, temporary_home, until

MODEL = "mnist-snf-glow"
HEAD = 3
"""Jobs that are submitted first, one after the other, and must be taken in this order."""
REQUEST = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "model": "waiting",
    "parameters": {"max_steps": 1, "batch_size": 32, "validations": 1, "validation_images": 20},
}
SCORED = 300
LIMITS = (50, 200)
QUANTILES, ROLES = ("p50_ms", "p99_ms", "max_ms"), ("service", "server")
FILTERS: dict[str, dict[str, str]] = {"all": {}, "queued": {"status": "queued"}}


@contextmanager
def without_workers(home: Path, settings: dict[str, Any]) -> Iterator[PatientClient]:
    """Run a broker and a service alone."""
    with (
        running("snf_worker.broker.embedded", home=home, **settings),
        running("snf_app.server", home=home, **settings) as service,
        PatientClient(settings["port"]) as client,
    ):
        client.await_ready(service)
        until("broker", 30, lambda: client.document("/readyz")["jobs"] == "ok")
        yield client


def ask(client: PatientClient, method: str, path: str, **options: Any) -> tuple[Any, float]:
    """Return the JSON answer of a call and the seconds it took; raises ``httpx.HTTPStatusError``."""
    started = time.perf_counter()
    answer = client.request(method, path, **options).raise_for_status()
    return answer.json(), time.perf_counter() - started


def spread(seconds: list[float]) -> dict[str, float]:
    """Return what the latencies come down to, in milliseconds."""
    return {
        "calls": len(seconds),
        "p50_ms": 1e3 * percentile(seconds, 0.5),
        "p99_ms": 1e3 * percentile(seconds, 0.99),
        "max_ms": 1e3 * max(seconds),
    }


def submit(client: PatientClient, count: int) -> list[tuple[str, float]]:
    """Submit jobs one after the other; return each one's id and how long it took."""
    answers = [ask(client, "POST", "/v1/jobs", json=REQUEST) for _ in range(count)]
    return [(job["id"], seconds) for job, seconds in answers]


def submit_all(client: PatientClient, count: int, clients: int) -> tuple[list[str], dict[str, float]]:
    """Submit ``count`` jobs, all but the first by several clients at once; return their ids and the latencies."""
    head = submit(client, HEAD)

    def work(share: int) -> list[tuple[str, float]]:
        with PatientClient(client.port) as own:
            return submit(own, share)

    rest = count - HEAD
    shares = [rest // clients + (number < rest % clients) for number in range(clients)]
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        made = [one for found in pool.map(work, shares) for one in found]
    seconds = time.perf_counter() - started
    ids = [job for job, _ in head + made]
    return ids, {"jobs_per_second": rest / seconds, "clients": clients, **spread([s for _, s in made])}


def read_pages(client: PatientClient, ids: list[str], calls: int) -> dict[str, dict[str, float]]:
    """Return the latencies of pages from random cursors, by limit and filter, and of single jobs."""
    chance = random.Random(0)
    chosen = chance.choices(ids, k=calls)
    found = {}
    for limit in LIMITS:
        for name, query in FILTERS.items():
            asked = [{"limit": limit, "after": job, **query} for job in chosen]
            seconds = [ask(client, "GET", "/v1/jobs", params=one)[1] for one in asked]
            found[f"page of {limit}, {name}"] = spread(seconds)
    found["one job"] = spread([ask(client, "GET", f"/v1/jobs/{job}")[1] for job in chosen])
    return found


def count_listed(client: PatientClient, most: int) -> int:
    """Return how many different jobs the pages of the list hold."""
    seen: set[str] = set()
    query: dict[str, Any] = {"limit": 200}
    for _ in range(most):
        page = client.document("/v1/jobs", **query)
        seen.update(job["id"] for job in page["jobs"])
        if page["next"] is None:
            return len(seen)
        query["after"] = page["next"]
    raise RuntimeError(f"the list does not end after {most} pages")


def score(client: PatientClient) -> dict[str, float]:
    """Return the latencies of scoring one image."""
    headers, path = {"content-type": "image/png"}, f"/v1/models/{MODEL}/score"
    images = [DIGITS[turn % len(DIGITS)].read_bytes() for turn in range(SCORED)]
    ask(client, "POST", path, content=images[0], headers=headers)  # the first one warms up
    return spread([ask(client, "POST", path, content=image, headers=headers)[1] for image in images])


def memory(home: Path) -> dict[str, float]:
    """Return the resident MiB of service and broker."""
    found = {role: find(home, role) for role in ROLES}
    return {role: resident_bytes(process.pid) / 2**20 for role, process in found.items() if process is not None}


def taken_first(client: PatientClient, home: Path, settings: dict[str, Any]) -> list[str]:
    """Start a worker and return the jobs that it takes first, in order."""

    def started() -> list[str]:
        pages = [client.document("/v1/jobs", status=s)["jobs"] for s in ("starting", "running", "succeeded", "failed")]
        jobs = {job["id"]: job["started_at"] for page in pages for job in page}
        return sorted(jobs, key=lambda job: str(jobs[job]))[:HEAD] if len(jobs) >= HEAD else []

    with running("snf_worker.runtime.main", home=home, **settings, devices="cpu"):
        found: list[str] = until("jobs taken", 300, started)
    return found


def measure(count: int, clients: int, calls: int, home: Path) -> dict[str, Any]:
    """Fill the queue, read it, and empty its head."""
    most = {"max_jobs": count, "max_jobs_per_caller": count}
    settings = {"port": free_port(), "runtime_dir": home / "run", **most}
    with without_workers(home, settings) as client:
        scored_before, memory_before = score(client), memory(home)
        ids, submitted = submit_all(client, count, clients)
        print(f"{count} jobs submitted, {submitted['jobs_per_second']:.0f}/s", flush=True)
        waiting_memory = memory(home)
        scored_after = score(client)
        listed = count_listed(client, count)
        pages = read_pages(client, ids, calls)
        memory_after = memory(home)
        first = taken_first(client, home, settings)
    return {
        "jobs": count,
        "listed": listed,
        "submit": submitted,
        "read": pages,
        "score": {"before": scored_before, "with the jobs waiting": scored_after},
        "memory_mib": {"before": memory_before, "with the jobs waiting": waiting_memory, "after reading": memory_after},
        "first_submitted": ids[:HEAD],
        "first_taken": first,
        "in_order": first == ids[:HEAD],
    }


def text_of(found: dict[str, Any], described: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = {f"submit, {found['submit']['clients']} clients": found["submit"], **found["read"]}
    rows |= {f"score one image, {when}": latencies for when, latencies in found["score"].items()}
    times = [[name, row["calls"], *(f"{row[key]:.1f} ms" for key in QUANTILES)] for name, row in rows.items()]
    memory = [[when, *(f"{mib[role]:.0f} MiB" for role in ROLES)] for when, mib in found["memory_mib"].items()]
    lines = [
        f"# {found['jobs']} waiting jobs",
        "",
        f"{described['cpu']}, {described['cores']} cores, shared by service, broker and clients. "
        f"{found['submit']['jobs_per_second']:.0f} jobs a second were submitted; {found['listed']} are listed.",
        "",
        *table(["call", "calls", "p50", "p99", "worst"], times),
        "",
        *table(["resident memory", "service", "broker"], memory),
    ]
    order = "in the order of submission" if found["in_order"] else f"OUT OF ORDER: {', '.join(found['first_taken'])}"
    lines += ["", f"A worker that started then took the first {HEAD} jobs {order}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and report; 1 where jobs are missing or taken out of order."""
    parser = parser_of("queue", __doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4, help="threads that submit at once")
    parser.add_argument("--calls", type=int, default=1000, help="reads of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of queue.json and queue.md")
    arguments = parser.parse_args()
    described = machine()
    with temporary_home("queue") as home:
        found = measure(arguments.jobs, arguments.clients, arguments.calls, home)
    text = text_of(found, described)
    print(text)
    write_results(arguments.out, "queue", {"machine": described, **found}, text)
    return 0 if found["in_order"] and found["listed"] == found["jobs"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
