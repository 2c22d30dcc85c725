"""Image files with faults, by every way in: ``python -m benchmarks.hostile_images [--files 5000] [--archives 2000]``.

``snf up`` runs, with a model that takes images of its own size alone and one that resizes. Each mutated file is scored
over HTTP by both, by ``snf score`` in a folder, and by a scoring job of an uploaded dataset; then mutated archives are
uploaded. Sound images are scored before and after. Clients and service share the machine.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.hostile_uploads import RESULTS, WARM_UP, Memory, Uploader, watching
from benchmarks.installation import machine, snf_up, temporary_home, write_results
from benchmarks.mutations import FILES, VALID, image_mutation, mutation
from models.registry.registry import Registry
from tests.end_to_end.support.service import environment
from tests.models.datasets.sample_files import pngs
from tests.support.paths import ROOT
from tests.support.resizing import resizing_artifact

EXACT, RESIZING = "mnist-snf-glow", "resizing"
MODELS = (EXACT, RESIZING)
DATASET = "mutated"
MAX_S, MAX_GROWTH_MB = 10.0, 50.0
SOUND = 32
NOT_ALL_JUDGED = 4
"""Exit code of ``snf score`` where a file is no image."""
Row = dict[str, Any]


@dataclass
class Answers:
    """Answers to the files of one way: statuses, with the type of a problem, and the time of each in seconds."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")

    def add(self, name: str, status: int, slug: str, seconds: float) -> None:
        """Count one answer."""
        self.statuses[f"{status} {slug}".strip()] += 1
        self.seconds.append(seconds)
        self.slowest = max(self.slowest, (seconds, f"{name}: {status} {slug}".strip()))

    @property
    def figures(self) -> Row:
        """What is reported."""
        return {
            "statuses": dict(self.statuses),
            "slowest": self.slowest,
            "mean_s": sum(self.seconds) / len(self.seconds),
        }


def posted(client: httpx.Client, model: str, files: dict[str, bytes]) -> Answers:
    """Send each file in a request of its own, from two threads."""
    answers = Answers()

    def send(item: tuple[str, bytes]) -> tuple[str, httpx.Response, float]:
        began = time.perf_counter()
        path = f"/v1/models/{model}/score"
        while True:
            answer = client.post(path, content=item[1], headers={"Content-Type": "image/png"})
            if answer.status_code != 429:
                return item[0], answer, time.perf_counter() - began
            time.sleep(0.2)

    with ThreadPoolExecutor(2) as pool:
        for name, answer, seconds in pool.map(send, files.items()):
            body = answer.json()
            ok = answer.status_code == 200
            answers.add(name, answer.status_code, "" if ok else body["type"], seconds)
            answers.scores[name] = body["results"][0]["log_likelihood"] if ok else None
    return answers


def command(home: Path, *arguments: str) -> tuple[float, int]:
    """Run a command of ``snf`` on the installation; return its seconds, and its most resident bytes."""
    began = time.perf_counter()
    with (home / "command.log").open("wb") as log:
        line = [sys.executable, "-m", "app.cli.main", *arguments]
        process = subprocess.Popen(line, cwd=ROOT, env=environment(home), stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, NOT_ALL_JUDGED):
        raise RuntimeError(f"exit code {process.returncode}: {(home / 'command.log').read_text()[-2000:]}")
    return time.perf_counter() - began, 1024 * used.ru_maxrss


def scores_of(table: Path) -> dict[str, float | None]:
    """Return the score of each file of a table, None for one that was not judged, by its name without folders."""
    with table.open(newline="", encoding="utf-8") as file:
        return {
            row["path"].rpartition("/")[2]: float(row["log_likelihood"]) if row["log_likelihood"] else None
            for row in csv.DictReader(file)
        }


def by_command(home: Path, model: str, *arguments: str) -> Row:
    """Score files with ``snf score --out`` in a process of its own, or a dataset with a job."""
    out = home / f"{len(list(home.glob('*.csv')))}.csv"
    seconds, most = command(home, "score", *arguments, "-m", model, "--out", str(out))
    scores = scores_of(out)
    judged = sum(score is not None for score in scores.values())
    return {"files": len(scores), "judged": judged, "seconds": seconds, "most_bytes": most, "scores": scores}


def upload(client: httpx.Client, files: dict[str, bytes]) -> Row:
    """Upload all files as one dataset, in a zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    began = time.perf_counter()
    answer = client.post("/v1/datasets", data={"name": DATASET}, files={"file": ("files.zip", content.getvalue())})
    report = answer.raise_for_status().json()["report"]
    return {"stored": report["images"], "seconds": time.perf_counter() - began}


def sound_scores(client: httpx.Client) -> list[Any]:
    """Return all that the service says of sound images by both models."""
    images = list(pngs(SOUND).values())
    answers = (
        client.post(f"/v1/models/{model}/score", content=data, headers={"Content-Type": "image/png"})
        for model in MODELS
        for data in images
    )
    return [answer.raise_for_status().json()["results"][0] for answer in answers]


def archives(uploader: Uploader, count: int) -> Answers:
    """Upload mutated archives."""
    answers = Answers()
    with ThreadPoolExecutor(2) as pool:
        for one in pool.map(lambda index: uploader.send(index, *mutation(index)), range(count)):
            answers.add(one.name, one.status, one.slug, one.seconds)
    return answers


def files_in(folder: Path, files: dict[str, bytes]) -> str:
    """Write files into a new folder and return its path."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


def measure(files: int, of_archives: int, home: Path) -> Row:
    """Run the service, send everything, and return the figures."""
    mutated = {f"{index:05d}": image_mutation(index)[1] for index in range(files)}
    folder = files_in(home / "mutated", mutated)
    # As many files: a table of results has a row for each.
    kinds = list(FILES.items())
    numbered = ((f"{index:05d}-{kinds[index % len(kinds)][0]}", kinds[index % len(kinds)][1]) for index in range(files))
    sound = files_in(home / "sound", dict(numbered))
    Registry(home / "registry").publish(resizing_artifact(home), RESIZING, promote=True)
    memory = Memory()
    with snf_up(home) as patient, httpx.Client(base_url=f"http://127.0.0.1:{patient.port}", timeout=600) as client:
        uploader = Uploader(patient.port)
        for index in range(WARM_UP):
            uploader.send(index, "warm up", [("upload", VALID["tar.gz"])])
            for model in MODELS:
                posted(client, model, FILES)
        before = sound_scores(client)
        with watching(home, memory):
            time.sleep(1)
            http = {model: posted(client, model, mutated) for model in MODELS}
            print("HTTP", {model: dict(answers.statuses) for model, answers in http.items()}, flush=True)
            uploaded = upload(client, mutated)
            dataset = ("--dataset", DATASET, "--url", str(client.base_url))
            jobs = {model: by_command(home, model, *dataset) for model in MODELS}
            print(f"a dataset of {uploaded['stored']} images, scored by jobs", flush=True)
            of_uploads = archives(uploader, of_archives)
            time.sleep(1)
        after = sound_scores(client)
    folders = {model: by_command(home, model, folder) for model in MODELS}
    alone = {model: by_command(home, model, sound) for model in MODELS}
    return {
        "files": files,
        "kinds": len(FILES),
        "upload": uploaded,
        "answers": {f"HTTP, {model}": answers.figures for model, answers in http.items()}
        | {"archives": of_uploads.figures},
        "runs": {
            f"{way}, {model}": {name: row[name] for name in ("files", "judged", "seconds")}
            | {"differ": [name for name, score in row["scores"].items() if score != http[model].scores[name]]}
            for way, rows in (("`snf score`", folders), ("job", jobs))
            for model, row in rows.items()
        },
        "sound_images_equal": before == after,
        "service_mb": [size / 1e6 for size in (memory.service[0], max(memory.service), memory.service[-1])],
        "readers_mb": max(memory.readers) / 1e6,
        "snf_score_mb": [max(row["most_bytes"] for row in rows.values()) / 1e6 for rows in (alone, folders)],
    }


def limits(found: Row) -> dict[str, bool]:
    """Return what must hold, and whether it does."""
    statuses = [status for row in found["answers"].values() for status in row["statuses"]]
    slowest = max(row["slowest"][0] for row in found["answers"].values())
    first, most, _ = found["service_mb"]
    alone, beside = found["snf_score_mb"]
    return {
        "no answer is a 5xx": not any(status.startswith("5") for status in statuses),
        f"the slowest answer takes {slowest:.1f} s <= {MAX_S:g} s": slowest <= MAX_S,
        f"the service grows by {most - first:.1f} MB < {MAX_GROWTH_MB:g} MB": most - first < MAX_GROWTH_MB,
        f"`snf score` takes {beside - alone:.1f} MB < {MAX_GROWTH_MB:g} MB more than for as many sound files": (
            beside - alone < MAX_GROWTH_MB
        ),
        f"{2 * SOUND} scores of sound images before and after are equal to the bit": found["sound_images_equal"],
        "every way gives a file the same score, to the bit": not any(row["differ"] for row in found["runs"].values()),
    }


def text_of(found: Row, described: Row) -> str:
    """Return the results as Markdown."""
    lines = ["# Image files with faults, by every way in", ""]
    lines.append(
        f"{described['cpu']}, {described['cores']} cores, Python {described['python']}. {found['files']} files made of "
        f"{found['kinds']} kinds, clients on the same machine. `{RESIZING}` is `{EXACT}` with another preprocessing."
    )
    lines += ["", "| limit | |", "|---|---|"]
    lines += [f"| {name} | {'PASS' if held else 'FAIL'} |" for name, held in limits(found).items()]
    lines += ["", f"| answer | {' | '.join(found['answers'])} |", f"|---{'|---' * len(found['answers'])}|"]
    for status in sorted({status for row in found["answers"].values() for status in row["statuses"]}):
        counts = (str(row["statuses"].get(status, 0)) for row in found["answers"].values())
        lines.append(f"| {status} | {' | '.join(counts)} |")
    lines.append(
        f"| slowest | {' | '.join('{:.2f} s, {}'.format(*row['slowest']) for row in found['answers'].values())} |"
    )
    lines += ["", "| way | files | judged | s | scores other than by HTTP |", "|---|---|---|---|---|"]
    for way, row in found["runs"].items():
        lines.append(f"| {way} | {row['files']} | {row['judged']} | {row['seconds']:.0f} | {len(row['differ'])} |")
    lines += [
        "",
        f"The dataset took {found['upload']['stored']} of the files in {found['upload']['seconds']:.0f} s.",
        "",
    ]
    lines += ["| resident memory | MB |", "|---|---|"]
    names = ("service before", "service at its worst moment", "service after")
    lines += [f"| {name} | {size:.0f} |" for name, size in zip(names, found["service_mb"], strict=True)]
    lines.append(f"| processes that read uploads, at their worst moment | {found['readers_mb']:.0f} |")
    alone, beside = found["snf_score_mb"]
    lines.append(f"| `snf score` on as many sound files, at its worst moment | {alone:.0f} |")
    lines.append(f"| on the files with faults | {beside:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and report; 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_images", description=__doc__)
    parser.add_argument("--files", type=int, default=5000, help="image files with faults")
    parser.add_argument("--archives", type=int, default=2000, help="archives with faults")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of hostile_images.json and .md")
    arguments = parser.parse_args()
    described = machine()
    with temporary_home("hostile") as home:
        found = measure(arguments.files, arguments.archives, home)
    text = text_of(found, described)
    print(text)
    write_results(arguments.out, "hostile_images", {"machine": described, **found}, text)
    return 0 if all(limits(found).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
