"""Every command of ``snf`` on a stored home: exit codes, and the members of ``--json``, here and by a service.

``pytest tests/end_to_end/test_command_table.py --write-docs`` adds what commands print now to the stored members;
remove the file first to write it anew. The home's paused training goes on to its end meanwhile.
"""

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import httpx
import pytest
from PIL import Image
from typer.core import TyperCommand, TyperGroup

from snf_models.datasets import load_dataset
from tests.end_to_end.support.service import await_job, running, snf
from tests.support.backbones import TINY, tiny_onnx
from tests.support.command_parser import SNF
from tests.support.stored_home import ARCHITECTURE, TRAINING, unpack
from tests.support.stored_json import check_stored

STORED = Path(__file__).with_name("command_table.json")


class Row(NamedTuple):
    """Words behind a command that succeeds and of one with the commonest error, and the exit code of that one."""

    works: str | None
    fails: str
    code: int = 2


NO_JOB = "00000000000000000000000000"
ROWS = {
    "up": Row(None, "--port 99999"),  # both run until they are stopped
    "serve": Row(None, "--port 99999"),
    "recommend": Row(None, "nothing"),  # minutes
    "worker": Row("--check", "--devices tpu"),
    "jobs resume": Row("{paused}", NO_JOB),
    "score": Row("digit.png -m tiny", "missing.png"),
    "bulk": Row("parts --out bulk -m tiny", "missing --out bulk"),
    "datasets upload": Row("new{n} images", "new missing"),
    "evaluate": Row("-m tiny -n new{n} -a parts --images 40", "-m tiny -n parts"),
    "limit": Row("tiny --data parts --images 29 --shapes spot --contrasts 64", "nobody"),
    "sample": Row("-m tiny -n 2 --out sample{n}.png", "-m nobody"),
    "export": Row("tiny exported", "nobody exported"),
    "models list": Row("", "--url ftp://host"),
    "models show": Row("tiny", "nobody"),
    "models card": Row("tiny", "nobody"),
    "models audit": Row("tiny -n 1", "nobody"),
    "models drift": Row("tiny", "nobody"),
    "models calibrations": Row("tiny", "nobody"),
    "models calibrate": Row("tiny --dataset parts", "tiny --dataset nothing"),
    "models use-calibration": Row("tiny 0", "tiny 99"),
    "models export": Row("tiny tiny{n}.tar", "nobody tiny.tar"),
    "models import": Row("copy{n} tiny{n}.tar", "copy missing.tar"),
    "models alias": Row("tiny best 1", "tiny best 99"),
    "models delete": Row("copy{n} --all", "nobody --all"),
    "datasets list": Row("", "--url ftp://host"),
    "datasets show": Row("parts", "nothing"),
    "datasets refer": Row("far{n} file://{folder}/images", "far file://{folder}/missing"),
    "datasets contact-sheet": Row("parts --out sheet{n}.png", "nothing"),
    "datasets delete": Row("new{n}", "nothing"),
    "presets list": Row("", "--url ftp://host"),
    "presets show": Row("snf-glow-tiny", "nothing"),
    "presets layers": Row("", "nothing"),
    "backbones add": Row("net --onnx net.onnx --description net.json", "nothing"),
    "backbones list": Row("", "nothing"),
    "backbones show": Row("net", "nothing"),
    "train": Row("--data parts --architecture tiny.json --name made{n} --max-steps 2", "--data nothing"),
    "runs list": Row("", "--url ftp://host"),
    "runs show": Row("{trained}", "nothing"),
    "runs compare": Row("{trained} {paused}", "nothing"),
    "runs export": Row("{trained} run{n}", "nothing run"),
    "runs delete": Row("{run}", "nothing"),
    "jobs watch": Row("{paused}", NO_JOB),
    "jobs list": Row("", "--url http://127.0.0.1:1", 3),
    "jobs show": Row("{trained}", NO_JOB),
    "jobs metrics": Row("{trained}", NO_JOB),
    "jobs log": Row("{trained}", NO_JOB),
    "jobs download": Row("{scored} --out scores.parquet", NO_JOB),
    "jobs submit": Row("train --file request.json", "train dataset=nothing"),
    "jobs pause": Row("{submitted}", NO_JOB),
    "jobs cancel": Row("{submitted}", NO_JOB),
    "jobs retry": Row("{submitted}", NO_JOB),
    "jobs delete": Row("{submitted}", NO_JOB),
    "keys create": Row("ann --role read", "ann --role king"),  # from here on the service needs a key
    "keys list": Row("", "nothing"),
    "keys rotate": Row("ann", "nobody"),
    "keys revoke": Row("ann", "nobody"),
}
"""The commands in the order in which they run."""
ENDS = {"jobs pause": "paused", "jobs cancel": "cancelled", "jobs retry": "cancelled", "models calibrate": "succeeded"}
"""Statuses that jobs get to before the next command."""


def commands(command: TyperCommand | TyperGroup = SNF, *names: str) -> Iterator[tuple[str, TyperCommand]]:
    """Yield every command that does something by its words."""
    if isinstance(command, TyperCommand):
        yield " ".join(names), command
        return
    for name, inner in command.commands.items():
        assert isinstance(inner, TyperCommand | TyperGroup)
        yield from commands(inner, *names, name)


COMMANDS = dict(commands())


def option(command: str, name: str) -> Any:
    """Return an option of a command, None where it has none of the name."""
    return next((one for one in COMMANDS[command].params if name in one.opts), None)


class House:
    """The stored home, open in a folder with the files that commands name, and what they have printed."""

    def __init__(self, home: Path, folder: Path, client: httpx.Client) -> None:
        self.home = home
        self.client = client
        self.url = str(client.base_url).rstrip("/")
        jobs = client.get("/v1/jobs").json()["jobs"]
        self.names = {"folder": str(folder), "submitted": NO_JOB}
        self.names |= {"paused": next(job["id"] for job in jobs if job["status"] == "paused")}
        for kind, name in (("train", "trained"), ("score", "scored")):
            self.names[name] = next(job["id"] for job in jobs if (job["type"], job["status"]) == (kind, "succeeded"))
        self.wrong: list[str] = []
        self.printed: dict[str, Any] = {}

    def run(self, command: str, words: str, code: int, *more: str) -> str:
        """Run a command, and note another exit code; return what it printed."""
        with patch.dict(os.environ):  # options of `worker` and `serve` become variables
            done = snf(self.home, *command.split(), *shlex.split(words.format(**self.names)), *more, **SETTINGS)
        if done.returncode != code or (code and not done.stderr):
            self.wrong.append(f"{command} {words} {more}: {done.returncode}, not {code}: {done.stderr}{done.stdout}")
        return str(done.stdout)

    def check(self, command: str, row: Row, number: int, *where: str) -> None:
        """Run a command that works, with ``--json`` where it has that, and one that fails."""
        self.names["n"] = str(number)
        if "{run}" in (row.works or ""):
            runs = self.client.get("/v1/runs").json()["runs"]
            self.names["run"] = next(run["id"] for run in runs if run["origin"] == "command")
        if row.works is not None and option(command, "--json"):
            text = self.run(command, row.works, 0, "--json", *where)
            documents = parsed(text)
            now = members(documents[0]) if len(documents) == 1 else events(documents)
            self.printed[command] = merged(self.printed[command], now) if command in self.printed else now
            if command == "jobs submit":
                self.names["submitted"] = documents[0]["id"]
            if command == "jobs retry":
                self.client.post(f"/v1/jobs/{documents[0]['id']}/cancel")
            if command in ENDS:
                await_job(self.client, documents[0]["id"], ENDS[command])
        elif row.works is not None:
            self.run(command, row.works, 0, *where)
        self.run(command, row.fails, row.code, *(where if "--url" not in row.fails else ()))


SETTINGS = {"engine": "torch", "shipped": False}


def parsed(text: str) -> list[Any]:
    """Return the JSON documents of a text, which is one, or one a line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def members(value: Any) -> Any:
    """Return a JSON value with names of types in place of values, and one element in place of those of a list."""
    if isinstance(value, dict):
        return {key: members(inner) for key, inner in value.items()}
    if isinstance(value, list):
        every: list[Any] = []
        for inner in value:
            every = merged(every, [members(inner)])
        return every
    return "null" if value is None else type(value).__name__


def events(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the members of events by their names."""
    found: dict[str, Any] = {}
    for document in documents:
        now = members(document)
        found[document["event"]] = merged(found[document["event"]], now) if document["event"] in found else now
    return found


def merged(one: Any, other: Any) -> Any:
    """Return members that either has; those that one of two objects lacks get a question mark, null is any type."""
    if one == other or other in ("null", []):
        return one
    if one in ("null", []):
        return other
    if isinstance(one, list) and isinstance(other, list):
        return [merged(one[0], other[0])]
    if isinstance(one, dict) and isinstance(other, dict):
        sides = [{key.removesuffix("?"): inner for key, inner in side.items()} for side in (one, other)]
        sure = {key for key in sides[0].keys() & sides[1].keys() if key in one and key in other}
        return {
            key + "?" * (key not in sure): merged(sides[0].get(key, "null"), sides[1].get(key, "null"))
            for key in sorted(sides[0].keys() | sides[1].keys())
        }
    names = {name for side in (one, other) for name in (side.split("|") if isinstance(side, str) else ["object"])}
    return "float" if names == {"int", "float"} else "|".join(sorted(names))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home, folder = Path(tempfile.mkdtemp(prefix="snf-home-")), tmp_path_factory.mktemp("place")
    (folder / "images").mkdir()
    for number, image in enumerate(load_dataset("mnist-mini", None).test[:40, 0, 10:18, 10:18]):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
    shutil.copy(folder / "images" / "0.png", folder / "digit.png")
    (folder / "tiny.json").write_text(json.dumps(ARCHITECTURE))
    more = TRAINING["parameters"] | {"max_steps": 1_000_000}
    (folder / "request.json").write_text(json.dumps(TRAINING | {"model": "endless", "parameters": more}))
    (folder / "net.onnx").write_bytes(tiny_onnx())
    (folder / "net.json").write_text(json.dumps(TINY))
    unpack("2026-12.tar.xz", home)
    changes = SETTINGS | {"allowed_locations": f"file://{folder}/", "retention_days": 100_000}
    with (
        running("tests.support.forking_house", home=home, forked=True, **changes) as client,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.chdir(folder)
        yield House(home, folder, client)
    shutil.rmtree(home)


def test_every_command_has_a_row() -> None:
    assert ROWS.keys() == COMMANDS.keys()


def test_exit_codes_and_members_of_json_are_those_that_are_stored(house: House, request: pytest.FixtureRequest) -> None:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    for command, row in ROWS.items():
        url = option(command, "--url")
        if url is None:
            house.check(command, row, 1)
            continue
        if "compute in this process" in (url.help or ""):
            house.check(command, row, 1)
        house.check(command, row, 2, "--url", house.url)
        if command == "jobs watch":
            done = house.client.get(f"/v1/jobs/{house.names['paused']}").json()
            assert (done["status"], done["progress"]["steps"], done["result"]["model"]) == ("succeeded", 1500, "tiny")
    assert not house.wrong, "\n".join(house.wrong)
    now = {command: merged(stored.get(command, "null"), shape) for command, shape in house.printed.items()}
    check_stored(STORED, now, request.config)
