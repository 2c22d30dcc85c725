"""Words for a shell, as it asks for them: the right ones, soon, and never an error."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import IMPORT_PATH, ROOT

PROGRAM = "import sys; sys.argv[0] = 'snf'; from app.cli.main import main; main()"


def words(line: str, home: Path, **variables: str) -> list[str]:
    environment = {"PATH": "", "PYTHONPATH": IMPORT_PATH, "SNF_HOME": str(home), **variables}
    environment |= {"_SNF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("snf score --model mni", ["mnist-snf-glow"]),
        ("snf models calibrations f", ["fashion-snf-glow"]),
        ("snf train --data mni", ["mnist-mini"]),
        ("snf train --preset snf-glow-t", ["snf-glow-tiny"]),
        ("snf jobs sh", ["show"]),
        ("snf models import parts docs/op", ["docs/operations.md"]),
        (
            "snf models export mnist-snf-glow dock",
            ["docker-compose.gpu.yml", "docker-compose.locations.yml", "docker-compose.yml", "docker/"],
        ),
    ],
)
def test_words(line: str, wanted: list[str], tmp_path: Path) -> None:
    assert words(line, tmp_path) == wanted


@pytest.mark.parametrize(
    "line", ["snf jobs show ", "snf score --url http://127.0.0.1:1 --model m", "snf datasets show x"]
)
def test_what_cannot_be_known_is_silent_and_soon(line: str, tmp_path: Path) -> None:
    began = time.monotonic()
    assert words(line, tmp_path, SNF_PORT="1") == []
    assert time.monotonic() - began < 20


def test_wrong_settings_are_silent(tmp_path: Path) -> None:
    assert words("snf score --model mni", tmp_path, SNF_PORT="none") == []
