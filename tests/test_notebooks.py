"""The notebooks of examples/notebooks run from the first to the last cell, and are stored with small outputs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.unmeasured import unmeasured
from tests.test_docs import LINK, anchors

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
MAX_BYTES = 300_000
REFRESH = "make notebooks"
SHORTER = {
    "new_bijection": {'"max_steps": 60': '"max_steps": 8, "batch_size": 16'},
    "own_images": {'"feature_side": 112': '"feature_side": 80', 'place / "backbones"': 'Path("BACKBONES")'},
    "paper": {"steps=300": "steps=60", "steps=80": "steps=8", "(64, 256, 1024)": "(64, 256)"},
}
"""What is run in place of a part of a notebook: its own checks hold after fewer steps and with fewer features, too."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["new_bijection", "own_images", "paper"]


@EVERY_NOTEBOOK
def test_a_notebook_runs(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    program = tmp_path / f"{path.stem}.py"
    text = "\n\n".join(f"# cell {n}\n{source(cell)}" for n, cell in enumerate(cells(path, "code")))
    for long, short in SHORTER.get(path.stem, {}).items():
        assert long in text
        text = text.replace(long, short)
    if "BACKBONES" in text:
        text = text.replace("BACKBONES", str(request.getfixturevalue("backbones")))
    program.write_text(text)
    done = run_program(program, cwd=tmp_path, env=unmeasured() | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr


@EVERY_NOTEBOOK
def test_a_notebook_is_small_and_stored_with_its_outputs(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), f"run `{REFRESH}`"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    printing = [cell for cell in code if re.search(r"^print\(|^Image\.", source(cell), re.MULTILINE)]
    assert all(cell["outputs"] for cell in printing), f"run `{REFRESH}`"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work)/", text), "a path of one machine"


@EVERY_NOTEBOOK
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    links = [link for cell in cells(path, "markdown") for link in LINK.findall(source(cell))]
    assert links
    for target, anchor in links:
        page = (path.parent / target).resolve()
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), f"{target}#{anchor}"
