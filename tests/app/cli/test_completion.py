"""Words for a shell, as it asks for them: the right ones, soon, and never an error."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.paths import IMPORT_PATH, ROOT

PROGRAM = """
import os, sys
sys.argv = ["snf"]
from snf_app.cli.main import main
for line in sys.stdin.read().splitlines():
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    try:
        main()
    except SystemExit as end:
        print(f"end {end.code}", flush=True)
"""


def words(lines: Sequence[str], home: Path, **variables: str) -> list[list[str]]:
    """The words for each line; a shell starts a process a line, here all lines are those of one."""
    environment = {"PATH": "", "PYTHONPATH": IMPORT_PATH, "SNF_HOME": str(home), **variables}
    environment |= {"_SNF_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="".join(f"{line}\n" for line in lines),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.stderr == ""
    *found, rest = re.split("^end 0\n", done.stdout, flags=re.M)
    assert (len(found), rest) == (len(lines), "")
    return [answer.split() for answer in found]


def test_words_are_completed_and_what_cannot_be_known_ends_soon(tmp_path: Path) -> None:
    wanted = {
        "snf score --model mni": ["mnist-snf-glow"],
        "snf models calibrations f": ["fashion-snf-glow"],
        "snf train --data mni": ["mnist-mini"],
        "snf train --preset snf-glow-t": ["snf-glow-tiny"],
        "snf jobs sh": ["show"],
        "snf models import parts docs/op": ["docs/operations.md"],
        "snf models export mnist-snf-glow dock": [
            *("docker-compose.gpu.yml", "docker-compose.locations.yml", "docker-compose.yml", "docker/")
        ],
        "snf jobs show ": [],
        "snf score --url http://127.0.0.1:1 --model m": [],
        "snf datasets show x": [],
    }
    began = time.monotonic()
    assert dict(zip(wanted, words(list(wanted), tmp_path, SNF_PORT="1"), strict=True)) == wanted
    assert time.monotonic() - began < 20


def test_wrong_settings_are_silent(tmp_path: Path) -> None:
    assert words(["snf score --model mni"], tmp_path, SNF_PORT="none") == [[]]
