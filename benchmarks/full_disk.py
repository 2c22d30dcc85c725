"""A home on a disk that fills: ``python -m benchmarks.full_disk [--rounds 2]``. Needs root on Linux: it mounts a disk.

The home of an installation by ``snf up``, its embedded broker included, lies on a tmpfs of 64 MiB. A filler takes its
space step by step, as another program would, until nothing is left, and goes on to take whatever becomes free.
Meanwhile one job trains and one waits, an image is scored five times a second, and in each step datasets and a model
are uploaded, aliases moved, jobs submitted, drift acknowledged, datasets deleted and keys rotated. In every second
round the installation is stopped and started again while the disk is full. Then the filler leaves. It is checked that

- every call is answered; none by 500, each refusal by a problem with a sentence, and each command by a sentence,
- every image is scored, always with the same result,
- what was accepted is there in the end, and what was refused is not: jobs, datasets, versions, aliases, keys,
- the job that trained, the one that waited and all jobs that were accepted succeed once there is room.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from benchmarks.installation import PatientClient, end_all, machine, snf_up, until, write_results
from benchmarks.repeated import Repeated
from benchmarks.steady import MODEL, Steady, score
from tests.models.datasets.sample_files import pngs, zipped
from tests.support.paths import ROOT

RESULTS = Path(__file__).parent / "results"
DISK_BYTES = 64 * 2**20
STEPS_MIB = (20.5, 10, 3, 0.5, 0)
FULL_S = 40.0
"""Time in seconds for which nothing is left, after the last step."""
JOB_S = 400.0
TRAINING = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny"}
SMALL = {"max_steps": 20, "batch_size": 32, "validations": 1, "validation_images": 20}
LONG = {"max_steps": 300, "batch_size": 32, "validations": 2, "validation_images": 20, "checkpoint_seconds": 2}
SETTINGS = {"train_threads": 1, "threads": 1}
NAME = "first"
LARGE = "upload 12 MiB"
Line = dict[str, Any]


@contextmanager
def mounted(size: int) -> Iterator[Path]:
    """Mount an empty tmpfs of ``size`` bytes and give its folder; it is unmounted in any case."""
    folder = Path(tempfile.mkdtemp(prefix="snf-full-disk-")).resolve()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        end_all(folder / "home")
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


class Filler(Repeated):
    """Another program on the disk: a file that grows until ``left`` bytes are free, and again after each deletion."""

    def __init__(self, folder: Path) -> None:
        super().__init__(0.05)
        self._folder = folder
        self._path = folder / "filler"
        self.left = float(DISK_BYTES)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._path.unlink(missing_ok=True)

    def fill(self, left: float) -> None:
        """Take space until at most ``left`` bytes are free."""
        self.left = left
        until("full disk", 30, lambda: free_bytes(self._folder) <= left)

    def turn(self) -> None:
        """Take what is free beyond ``left``."""
        more = int(free_bytes(self._folder) - self.left)
        if more > 0:
            # Something else may have taken the space meanwhile.
            with suppress(OSError), self._path.open("ab", buffering=0) as file:
                file.write(b"x" * more)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of a folder."""
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize


class Callers:
    """All calls that write, what was answered, and what must be there in the end."""

    client: PatientClient

    def __init__(self, home: Path) -> None:
        self._home = home
        self._number = 0
        self.answers: Counter[str] = Counter()
        self.violations: list[str] = []
        self.jobs: list[str] = []
        self.datasets: set[str] = set()
        self.gone: set[str] = set()
        self.aliases: dict[str, int] = {}
        self.uploaded: list[int] = []
        self.archive = b""
        self.room = True

    def call(self, what: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Make a call and check its answer; return it where it was accepted."""
        try:
            answer = self.client.request(method, path, **options)
        except httpx.TransportError as error:
            self.violations.append(f"{what}: {error!r}")
            return None
        if answer.is_success:
            self.answers[f"{what}: {answer.status_code}"] += 1
            return answer
        problem = answer.json() if answer.headers["content-type"] == "application/problem+json" else {}
        self.answers[f"{what}: {answer.status_code} {problem.get('type')}"] += 1
        expected = answer.status_code == 507 or problem.get("type") in ("jobs-unavailable", "drift-not-found")
        if self.room and what != LARGE and problem.get("type") != "drift-not-found":
            expected = False
        if not expected or " " not in problem.get("detail", ""):
            self.violations.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return None

    def prepare(self) -> None:
        """Train a version of a model, keep it as an archive, and upload that as the second version."""
        self.train("submit a training", SMALL)
        self.await_jobs()
        self.archive = self.client.get(f"/v1/models/{NAME}:1/artifact").raise_for_status().content
        self.upload_model()

    def train(self, what: str, parameters: Line) -> None:
        """Submit a training."""
        body = {**TRAINING, "model": NAME, "parameters": parameters, "promote": True}
        if answer := self.call(what, "POST", "/v1/jobs", json=body):
            self.jobs.append(answer.json()["id"])

    def upload_model(self) -> httpx.Response | None:
        """Upload the archive as the next version; return the answer if it was accepted."""
        options = {"content": self.archive, "headers": {"content-type": "application/x-tar"}}
        return self.call("upload a model", "POST", f"/v1/models?name={NAME}", **options)

    def write_everything(self) -> None:
        """Make each call that writes once."""
        self._number += 1
        name = f"set-{self._number}"
        content = zipped(pngs(20, start=20 * (self._number % 6)))
        form = {"data": {"name": name}, "files": [("file", ("a.zip", content))]}
        if self.call("upload a dataset", "POST", "/v1/datasets", **form):
            self.datasets.add(name)
        large = {"data": {"name": f"{name}-large"}, "files": [("file", ("a.zip", content + os.urandom(12 * 2**20)))]}
        if not self.call(LARGE, "POST", "/v1/datasets", **large):
            self.gone.add(f"{name}-large")
        for alias in ("live", "champion"):
            version = 1 + self._number % 2
            path = f"/v1/models/{NAME}/aliases/{alias}"
            if self.call("move an alias", "PUT", path, json={"version": version}):
                self.aliases[alias] = version
        if answer := self.upload_model():
            self.uploaded.append(answer.json()["version"])
        if self.uploaded:
            path = f"/v1/models/{NAME}/versions/{self.uploaded[0]}"
            if self.call("delete a version", "DELETE", path):
                self.uploaded.pop(0)
        if not self.room:
            self.train("submit a training", SMALL)
        self.call("acknowledge drift", "DELETE", f"/v1/models/{MODEL}/drift")
        if self.datasets:
            oldest = sorted(self.datasets)[0]
            if self.call("delete a dataset", "DELETE", f"/v1/datasets/{oldest}"):
                self.datasets.remove(oldest)
                self.gone.add(oldest)
        self.command("keys rotate other --overlap 0m")

    def command(self, words: str) -> str:
        """Run a command on the home; return its output."""
        done = subprocess.run(
            [sys.executable, "-m", "snf_app.cli.main", *words.split()],
            env=os.environ | {"SNF_HOME": str(self._home)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        name = " ".join(words.split()[:2])
        self.answers[f"snf {name}: exit code {done.returncode}"] += 1
        if "Traceback" in done.stderr or not (done.returncode == 0 or done.stderr.startswith("snf: ")):
            self.violations.append(f"snf {words}: {done.stderr[-300:]}")
        return done.stdout

    def await_jobs(self) -> None:
        """Wait until all accepted jobs have succeeded."""

        def ended() -> bool:
            states = {job: self.client.document(f"/v1/jobs/{job}") for job in self.jobs}
            if failed := [job for job in states.values() if job["status"] in ("failed", "cancelled", "partial")]:
                raise RuntimeError(f"a job is {failed[0]['status']}: {failed[0]['error']}")
            return all(job["status"] == "succeeded" for job in states.values())

        until("end of all jobs", JOB_S, ended)

    def check(self) -> None:
        """Compare what is there with what was accepted."""
        datasets = {dataset["name"] for dataset in self.client.document("/v1/datasets")["datasets"]}
        self._same("missing datasets", self.datasets - datasets, set())
        self._same("datasets that were deleted or refused", datasets & self.gone, set())
        (model,) = (one for one in self.client.document("/v1/models")["models"] if one["name"] == NAME)
        self._same("missing versions", {1, 2, *self.uploaded} - set(model["versions"]), set())
        for alias, version in self.aliases.items():
            if alias != "live":  # trainings promote their versions
                self._same(f"alias {alias}", model["aliases"][alias], version)

    def _same(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            self.violations.append(f"{what}: {got}, expected {expected}")


def play(folder: Path, restart: bool) -> Line:
    """Fill the disk, perhaps start the installation again on it, make room, and return what came of it."""
    home = folder / "home"
    home.mkdir()
    callers = Callers(home)
    callers.command("keys create other --role read")
    key = callers.command("keys create bench --role admin").split()[0]
    headers = {"authorization": f"Bearer {key}"}
    scored: list[tuple[float, str, float]] = []

    @contextmanager
    def installation() -> Iterator[None]:
        with snf_up(home, **SETTINGS) as client, Steady(client.port, lambda http, _turn: keyed(http)) as steady:
            client.headers.update(headers)
            callers.client = client
            try:
                yield
            finally:
                scored.extend(steady.answers)

    def keyed(http: httpx.Client) -> httpx.Response:
        http.headers.update(headers)
        return score(http, 0)

    with ExitStack() as filled:
        with ExitStack() as first:
            first.enter_context(installation())
            callers.prepare()
            callers.train("submit a long training", LONG)
            callers.train("submit a training", SMALL)
            running = callers.jobs[-2]
            until("a running job", 120, lambda: status(callers, running) == "running")
            callers.room = False
            filler = filled.enter_context(Filler(folder))
            for left in STEPS_MIB:
                filler.fill(left * 2**20)
                callers.write_everything()
            time.sleep(FULL_S)
            callers.write_everything()
            if not restart:
                return finish(callers, filled, running, scored, restart)
        with installation():
            callers.write_everything()
            return finish(callers, filled, running, scored, restart)


def finish(callers: Callers, filled: ExitStack, running: str, scored: list[Any], restart: bool) -> Line:
    """Make room, wait for all jobs, and check everything; return the results of the round."""
    filled.close()
    began = time.monotonic()
    callers.await_jobs()
    callers.room = True
    seconds = time.monotonic() - began
    callers.write_everything()
    callers.await_jobs()
    callers.check()
    attempts = callers.client.document(f"/v1/jobs/{running}")["attempts"]
    return {
        "restart": restart,
        "jobs": len(callers.jobs),
        "jobs_s": round(seconds, 1),
        "attempts_of_the_running_job": attempts,
        "calls": dict(sorted(callers.answers.items())),
        "violations": callers.violations,
        "scored": scored,
    }


def status(callers: Callers, job: str) -> str:
    """Return the status of a job."""
    return str(callers.client.document(f"/v1/jobs/{job}")["status"])


def report(described: Line, rounds: list[Line], out: Path) -> bool:
    """Write the results; return whether every promise was kept."""
    for line in rounds:
        scored = line.pop("scored")
        failures = [text for _, text, _ in scored if not text.startswith("{")]
        results = {text for _, text, _ in scored}
        line["violations"] += [f"an image was not scored: {text}" for text in failures]
        line["violations"] += [] if len(results) == 1 else [f"one image has {len(results)} results"]
        line["scored"] = len(scored)
        line["slowest_score_s"] = round(max(seconds for _, _, seconds in scored), 2)
    calls: Counter[str] = Counter()
    for line in rounds:
        calls.update(line["calls"])
    violations = [text for line in rounds for text in line["violations"]]
    rows = ["| call | answers |", "|---|---:|", *(f"| {call} | {count} |" for call, count in sorted(calls.items()))]
    said = [
        "# A home on a disk of 64 MiB that fills",
        f"{described['cpu']}, {described['cores']} cores. {len(rounds)} rounds, "
        f"{sum(line['restart'] for line in rounds)} with a restart on the full disk. One image was scored "
        f"{sum(line['scored'] for line in rounds)} times, always with the same result. "
        f"{sum(line['jobs'] for line in rounds)} jobs were accepted. All succeeded, at most "
        f"{max(line['jobs_s'] for line in rounds):g} s after there was room. Violations: {len(violations)}",
        "\n".join(rows),
        *(f"- {text}" for text in violations),
    ]
    write_results(out, "full_disk", {"machine": described, "rounds": rounds}, "\n\n".join(said) + "\n")
    print("\n\n".join(said), flush=True)
    return not violations


def main() -> int:
    """Play the rounds and report; 1 where a promise was broken, 2 without the right to mount a disk."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_disk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="every second one has a restart on the full disk")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of full_disk.json and .md")
    arguments = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0:
        print("python -m benchmarks.full_disk needs root on Linux: it mounts a disk of 64 MiB", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left behind
    described = machine()
    rounds = []
    for number in range(arguments.rounds):
        with mounted(DISK_BYTES) as folder:
            rounds.append(play(folder, restart=bool(number % 2)))
    return 0 if report(described, rounds, arguments.out) else 1


if __name__ == "__main__":
    raise SystemExit(main())
