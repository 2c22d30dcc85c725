"""Files of the product that run for one request, and the changes from file to file.

`python -m benchmarks.paths` starts an installation of its own. While a window is open, a profile function in all
threads of its processes counts calls: for a scored image, the submission of a training, its worker and its training
process (from their start, modules that are imported included), and an upload. A change is a call in another file than
that of the call before it in the same process. Results go beside those of earlier commits in `results/paths.json` and
`paths.md`; of the files, the names of the last run are kept.
"""

from __future__ import annotations

import ast
import mmap
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.common import DIGITS, RESULTS, ROOT, machine, parser_of, read_results, table, write_results
from benchmarks.installation import PatientClient, role_of, snf_up, temporary_home, until

PACKAGES = ("app", "worker", "models", "runtime", "client")
PROBE = """
import mmap, os, sys, threading
folder, root = os.environ["PATHS_PROBE"], os.environ["PATHS_ROOT"]
with open(folder + "/window", "r+b") as file:
    window = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
output = os.open(f"{folder}/{os.getpid()}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(output, f"{' '.join(sys.orig_argv)!r}\\n".encode())
names, last = {}, [None]
packages = tuple(f"{root}/{name}/" for name in PACKAGES)
def profile(frame, event, argument):
    if event != "call" or not window[0]:
        return
    code = frame.f_code
    try:
        name = names[code.co_filename]
    except KeyError:
        path = os.path.realpath(code.co_filename)
        own = path.startswith(packages) and path.endswith(".py") and "<" not in path
        name = names[code.co_filename] = path[len(root) + 1 :] if own else None
    if name and name != last[0]:
        last[0] = name
        os.write(output, f"{window[0]} {name}\\n".encode())
threading.setprofile(profile)
sys.setprofile(profile)
"""
"""A `sitecustomize` module, which each Python process of the installation imports at its start."""
TRAINING: dict[str, Any] = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "model": "paths",
    "parameters": {"max_steps": 8, "batch_size": 32, "validations": 2, "validation_images": 50},
}
REPEATS = 5
START, JOB, SCORE, SUBMIT, UPLOAD = 1, 2, 10, 20, 30
"""Numbers of the windows; that of a repeat is added."""


class Windows:
    """The windows in which processes count, and what they have counted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "window").write_bytes(b"\0")
        with (folder / "window").open("r+b") as file:
            self._number = mmap.mmap(file.fileno(), 1)
        (folder / "sitecustomize.py").write_text(PROBE.replace("PACKAGES", repr(PACKAGES)))

    @contextmanager
    def open(self, number: int) -> Iterator[None]:
        self._number[0] = number
        yield
        self._number[0] = 0

    def files(self, role: str, *numbers: int) -> list[str]:
        """Return the file of each change in processes of a role, in windows."""
        found = []
        for path in self._folder.glob("*.calls"):
            command, *lines = path.read_text().splitlines()
            if role_of(tuple(ast.literal_eval(command).split())) == role:
                calls = (line.split(" ", 1) for line in lines)
                found += [name for number, name in calls if int(number) in numbers]
        return found


def count(windows: Windows, client: PatientClient) -> None:
    """Send the requests, each by a connection of its own as most programs do."""

    def post(window: int, path: str, **body: Any) -> dict[str, Any]:
        with windows.open(window):
            answer = httpx.post(f"http://127.0.0.1:{client.port}{path}", **body)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    digits = [(path.name, path.read_bytes()) for path in DIGITS]
    for repeat in range(REPEATS):
        post(SCORE + repeat, "/v1/models/mnist-snf-glow/score", files=[("images", digits[0])])
        form = [("file", digit) for digit in digits]
        post(UPLOAD + repeat, "/v1/datasets", data={"name": f"parts-{repeat}"}, files=form)
        path = f"/v1/jobs/{post(SUBMIT + repeat, '/v1/jobs', json=TRAINING)['id']}"
        if repeat == 0:
            with windows.open(JOB):
                until("result", 120, lambda path=path: client.document(path)["status"] == "succeeded")
        else:
            client.post(f"{path}/cancel").raise_for_status()


def measured() -> list[dict[str, Any]]:
    """Return files and changes of each path."""
    with temporary_home("paths") as home, tempfile.TemporaryDirectory() as folder:
        windows = Windows(Path(folder))
        own = {"PATHS_PROBE": folder, "PATHS_ROOT": str(ROOT)}
        os.environ |= own | {"PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
        with ExitStack() as stack:
            with windows.open(START):
                client = stack.enter_context(snf_up(home))
            count(windows, client)
        later = range(1, REPEATS)
        return [
            row("the first scored image", [windows.files("service", SCORE)]),
            row("a later one", [windows.files("service", SCORE + repeat) for repeat in later]),
            row("a job's submission", [windows.files("service", SUBMIT + repeat) for repeat in later]),
            row("its worker", [windows.files("worker", START, SUBMIT, JOB)]),
            row("its training process", [windows.files("trainer", SUBMIT, JOB)]),
            row("an upload", [windows.files("service", UPLOAD + repeat) for repeat in later]),
        ]


def row(path: str, repeats: list[list[str]]) -> dict[str, Any]:
    fewest = min(repeats, key=lambda calls: len(set(calls)))  # threads that work beside the others add theirs
    names = sorted(set(fewest))
    return {"path": path, "files": len(names), "changes": len(fewest), "names": names}


def main() -> None:
    parser_of("paths", __doc__).parse_args()
    commits = read_results(RESULTS / "paths.json").get("commits", {})
    git = ["git", "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    paths = measured()
    commits[commit] = {row["path"]: f"{row['files']} files, {row['changes']} changes" for row in paths}
    names = dict.fromkeys(name for counts in commits.values() for name in counts)
    rows = [[name, *(counts.get(name) for counts in commits.values())] for name in names]
    text = "\n".join(table(["", *commits], rows)) + "\n"
    print(text)
    files = {row["path"]: row["names"] for row in paths}
    write_results(RESULTS, "paths", {"machine": machine(), "commits": commits, "names": files}, text)


if __name__ == "__main__":
    main()
