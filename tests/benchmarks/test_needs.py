"""Every benchmark that the documents name starts after ``make up``, or names in one sentence what it needs."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import needs
from tests.support.documents import PAGES, spans
from tests.support.fork_server import fork_server
from tests.support.paths import IMPORT_PATH, ROOT

COMMANDS = sorted({span for page in PAGES for span in spans(page) if span.startswith("python -m benchmarks.")})
ROW = re.compile(r"^\| .* \| `(python -m [^`]+)` \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)
PAGE = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
FIGURES = {command: needed for command, needed, _ in ROW.findall(PAGE)}
DATA = r"data|solar cells|`mnist`"


def words_of(command: str) -> list[str]:
    return shlex.split(command)[2:]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """The exit code and the output of each command with ``--help``, and without what it needs."""
    asked = {command: [words_of(command)[0], "--help"] for command in COMMANDS}
    asked |= {f"{command} without": words_of(command) for command in lacking()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SNF_")}
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "asked").write_text(json.dumps(list(asked.values())))
    with (
        (folder / "asked").open("rb") as given,
        (folder / "answers").open("wb") as printed,
        (folder / "errors").open("wb") as errors,
    ):
        process = fork_server().popen(
            [sys.executable, "-m", "tests.benchmarks.without_extras"],
            stdin=given.fileno(),
            stdout=printed,
            stderr=errors,
            env=environment | {"PYTHONPATH": IMPORT_PATH},
            cwd=ROOT,
        )
    try:
        assert process.wait(240) == 0, (folder / "errors").read_text()
    finally:
        if process.poll() is None:
            process.kill()
    return dict(zip(asked, map(tuple, json.loads((folder / "answers").read_text())), strict=True))


def lacking() -> list[str]:
    """The commands that cannot run without data or an extra."""
    return [command for command, needed in FIGURES.items() if re.search(rf"{DATA}|extra", needed)]


def test_the_benchmarks_start_without_the_extras(answers: dict[str, tuple[int, str]]) -> None:
    need_extras = {words_of(command)[0] for command, needed in FIGURES.items() if "extra `" in needed}
    for command in COMMANDS:
        code, printed = answers[command]
        module, *arguments = words_of(command)
        assert code == (needs.EXIT if module in need_extras else 0), f"{command}\n{printed}"
        if code == 0:
            known = [word for word in arguments if word.startswith("--") or (word.isalpha() and word.islower())]
            assert [word for word in known if word not in printed] == [], f"{command}\n{printed}"


def test_the_start_is_measured_without_the_packages_of_the_tests() -> None:
    # In a process of its own: forks have imported modules of the tests, and with them these packages.
    code = (
        "import sys; sys.modules |= dict.fromkeys(['coverage', 'moto', 'playwright', 'pytest', 'ray'])\n"
        "import benchmarks.speed.__main__, benchmarks.speed.startup"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_named_in_one_sentence(answers: dict[str, tuple[int, str]]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for command in lacking():
        code, printed = answers[f"{command} without"]
        assert (code, printed.count("\n")) == (needs.EXIT, 1), f"{command}\n{printed}"
        if extra := re.search(r"extra `(\w+)`", FIGURES[command]):
            assert extra[1] in extras
            assert printed.endswith(f"'.[{extra[1]}]'\n")
        else:
            assert re.search(r"needs (a folder with )?\S+\.npz", printed), printed


def test_every_figure_says_what_it_needs() -> None:
    table = [
        line
        for line in (ROOT / "docs" / "figures.md").read_text(encoding="utf-8").splitlines()
        if "`python -m bench" in line
    ]
    assert len(FIGURES) == len(table)


def test_a_folder_without_the_data_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mnist.npz").touch()
    monkeypatch.setenv("SNF_DATA_DIR", str(tmp_path))
    assert needs.data_dir("mnist") == tmp_path
    assert needs.builtin_dir("mnist-mini") is None
    with pytest.raises(SystemExit) as ended:
        needs.data_dir("mnist", "fashion-mnist", "elpv64.npz")
    assert ended.value.code == needs.EXIT
    assert (
        capsys.readouterr().err == f"benchmarks: needs fashion_mnist.npz, elpv64.npz, which {tmp_path} does not have\n"
    )
