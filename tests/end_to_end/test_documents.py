"""Every command and every example of the documents runs, in the order of its page, and prints what the page says."""

import io
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from snf_client import Client
from snf_models.datasets import DatasetStore, Source, load_dataset
from snf_models.registry.registry import Registry
from tests.end_to_end.support.documented import (
    DATA,
    NOT_RUN,
    ONLY_PARSED,
    PRINTS,
    PYTHON_ELSEWHERE,
    PYTHON_PRINTS,
    SHORTER,
)
from tests.end_to_end.support.service import MNIST, environment, serving, snf
from tests.support.backbones import described_onnx
from tests.support.command_parser import parse
from tests.support.documents import PAGES, Block, blocks, page_name
from tests.support.paths import DIGITS, ROOT
from tests.support.trained import feature_artifact

BLOCKS = {page_name(page): blocks(page) for page in PAGES}
COMMANDS = [
    command for page in BLOCKS.values() for block in page if block.language == "sh" for command in block.commands()
]
TEXTS = [*COMMANDS, *(block.text for page in BLOCKS.values() for block in page if block.language == "python")]
SERVICE = "http://127.0.0.1:8000"
MADE = ("good-parts", "more-good-parts", "bad-parts", "bad-masks", "boards", "parts", "lots", "line-1")
"""Datasets that the pages name."""


def shortened(command: str) -> str:
    """Return what is run in place of a documented command or block."""
    for fragment, other in SHORTER.items():
        command = command.replace(fragment, other)
    return command


class Place:
    """A folder with the files that the pages name, and the home of a service."""

    def __init__(self, folder: Path, home: Path, url: str) -> None:
        self.folder = folder
        self.home = home
        self.url = url
        self.key = ""

    def run(self, command: str) -> str:
        """Run a command as documented, or what the tables name in its place, and return what it printed."""
        if command in NOT_RUN:
            return ""
        shorter = shortened(command)
        if command in ONLY_PARSED:
            parse(shlex.split(shorter))
            return ""
        printed = self._snf(shorter) if shorter.startswith("snf ") else self._other(shorter)
        assert re.search(PRINTS.get(command, ""), printed, re.DOTALL), f"{command} printed:\n{printed}"
        return printed

    def _snf(self, command: str) -> str:
        words = [word.replace(SERVICE, self.url) for word in shlex.split(command)[1:]]
        words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
        if words[:2] == ["datasets", "upload"]:  # earlier pages have uploaded another one
            self.forget(words[2])
        if "--out" in words:  # earlier pages have written another one
            Path(words[words.index("--out") + 1]).unlink(missing_ok=True)
        done = snf(self.home, *words, port=httpx.URL(self.url).port, columns=200, engine="torch")
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if words[:2] == ["keys", "create"]:
            self.key = done.stdout.splitlines()[0]
            self._await_keys()
        if target is not None:
            Path(target).write_text(done.stdout)
        return str(done.stdout) + str(done.stderr)

    def _await_keys(self) -> None:
        deadline = time.monotonic() + 10
        while httpx.get(f"{self.url}/v1/me").status_code == 200:
            assert time.monotonic() < deadline, "the service does not notice its first key"
            time.sleep(0.1)

    def forget(self, dataset: str) -> None:
        """Delete a dataset if there is one of this name."""
        store = DatasetStore(self.home / "datasets")
        if dataset in store.names():
            store.delete(dataset)

    def _other(self, command: str) -> str:
        first = command.split(maxsplit=1)[0]
        assert first in {"curl", "make"} or first.startswith("examples/"), f"neither run nor listed: {command}"
        if first == "curl" and shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        shown = command.replace(SERVICE, self.url).replace("curl ", "curl --fail-with-body ")
        folder = ROOT if first == "make" else self.folder
        variables = environment(self.home) | {"KEY": self.key}
        done = subprocess.run(
            ["bash", "-c", shown], cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run_python(self, block: Block) -> str:
        """Run a Python block in this process and return what it printed."""
        code = compile(shortened(block.text).replace(SERVICE, self.url), block.page, "exec", dont_inherit=True)
        with redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
            patch.setenv("SNF_URL", self.url)
            exec(code, {"__name__": "page"})
        self.cancel_jobs()
        return printed.getvalue()

    def cancel_jobs(self) -> None:
        """Cancel the jobs that are not over, for which no page waits."""
        with Client(self.url) as client:
            for job in client.jobs.list().jobs:
                if job.status in {"queued", "starting", "running"}:
                    client.jobs.cancel(job.id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits under the names that the pages use, and the files of their examples."""
    place = tmp_path_factory.mktemp("documents")
    digits = load_dataset("mnist-mini", None)
    images = {"FOLDER": digits.train[:50, 0], "GOOD": digits.test[:60, 0], "BAD": digits.test[60:80, 0].copy()}
    images["NEW-IMAGES"] = digits.test[80:92, 0]
    images["MASKS"] = np.zeros_like(images["BAD"])
    for number in range(len(images["BAD"])):  # a stain in each, at different places
        images["MASKS"][number, number : number + 6, 8:14] = 255
    images["BAD"] = np.maximum(images["BAD"], images["MASKS"])
    for name, pixels in images.items():
        (place / name).mkdir()
        for number, one in enumerate(pixels):
            Image.fromarray(one).save(place / name / f"{number}.png")
    for name in ("1.png", "part.png", "try.png"):
        shutil.copy(DIGITS[0], place / name)
    shutil.copy(DIGITS[1], place / "2.png")
    for name in ("tests", "models", "examples"):
        (place / name).symlink_to(ROOT / name)
    [flow] = [block.text for block in BLOCKS["docs/architectures.md"] if block.language == "json"]
    [description] = [block.text for block in BLOCKS["docs/features.md"] if block.language == "json"]
    (place / "flow.json").write_text(flow)
    (place / "request.json").write_text('{"dataset": "parts", "model": "my-parts"}')
    (place / "network.json").write_text(description)
    (place / "network.onnx").write_bytes(described_onnx(json.loads(description)))
    return place


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return feature_artifact(tmp_path_factory)


@pytest.fixture(scope="module")
def stage(
    house: httpx.Client, house_home: Path, folder: Path, artifact: Path, backbones: Path, features: Path
) -> Iterator[Place]:
    """The folder beside a running service with the datasets and the model that the pages presuppose."""
    place = Place(folder, house_home, str(house.base_url))
    shutil.copytree(backbones, house_home / "backbones", dirs_exist_ok=True)
    registry = Registry(house_home / "registry")
    before = registry.names()
    registry.publish(artifact, "my-parts", promote=True)
    registry.publish(features, "parts-features", promote=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        store = DatasetStore(house_home / "datasets")
        for name, images in {
            "parts": "FOLDER", "lots": "GOOD", "boards": "GOOD", "good-parts": "GOOD", "more-good-parts": "GOOD",
            "bad-parts": "BAD",
        }.items():  # fmt: skip
            store.create(name, [Source(path, path.name) for path in sorted((folder / images).iterdir())])
        yield place
    for name in set(registry.names()) - set(before):
        registry.remove_model(name)
    for name in MADE:
        place.forget(name)


@pytest.fixture
def guarded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The folder beside a service of its own, as the first key closes it for callers without one."""
    monkeypatch.chdir(folder)
    with serving(tmp_path, shipped=MNIST) as client:
        yield Place(folder, tmp_path, str(client.base_url))


def run_page(place: Place, page: str) -> None:
    place_of_python = 0
    for block in BLOCKS[page]:
        if block.language == "sh":
            for command in block.commands():
                place.run(command)
        elif block.language == "python":
            expected = PYTHON_PRINTS.get((page, place_of_python))
            place_of_python += 1
            if expected is None:
                assert page in PYTHON_ELSEWHERE, f"{page}:{block.line} is neither run nor listed"
                continue
            printed = place.run_python(block)
            assert re.search(expected, printed, re.DOTALL), f"{page}:{block.line} printed:\n{printed}"
        else:
            assert block.language in DATA, f"{page}:{block.line}: blocks in {block.language} are not run"


RUN = [page for page, found in BLOCKS.items() if any(block.language not in DATA for block in found)]


@pytest.mark.parametrize("page", [page for page in RUN if page != "docs/security.md"])
def test_the_commands_of_a_page_run(page: str, stage: Place) -> None:
    run_page(stage, page)


def test_the_commands_of_keys_run(guarded: Place) -> None:
    run_page(guarded, "docs/security.md")


def test_the_tables_have_no_command_that_no_page_has() -> None:
    listed = ONLY_PARSED.keys() | NOT_RUN.keys() | PRINTS.keys()
    assert listed - set(COMMANDS) == set()
    assert [part for part in SHORTER if not any(part in text for text in TEXTS)] == []
    pages = {page for page, found in BLOCKS.items() if any(block.language == "python" for block in found)}
    assert {page for page, _ in PYTHON_PRINTS} | PYTHON_ELSEWHERE.keys() == pages


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
@pytest.mark.parametrize("more", [[], ["-f", "docker-compose.gpu.yml"], ["-f", "docker-compose.locations.yml"]])
def test_the_files_of_docker_compose(more: list[str]) -> None:
    command = ["docker", "compose", "-f", "docker-compose.yml", *more, "config", "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True)
