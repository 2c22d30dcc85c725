"""The order of the house: imports go one way, and what must start fast does not load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

MAY_IMPORT = {"models": {"models"}, "worker": {"worker", "models"}, "app": {"app", "worker", "models"}}


def imported_packages(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names & MAY_IMPORT.keys()


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_one_way(package: str) -> None:
    sources = list((ROOT / package).rglob("*.py"))
    assert len(sources) > 5
    for source in sources:
        assert imported_packages(source) <= MAY_IMPORT[package], source


@pytest.mark.parametrize(
    "module",
    [
        "app.cli.main",
        "app.main",
        "models.datasets",
        "models.images.codec",
        "models.training.presets",
        "models.registry.registry",
        "models.training.config",
        "worker.runtime.main",
        "worker.runtime.tasks",
    ],
)
def test_importing_does_not_load_torch(module: str) -> None:
    loads = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loads], cwd=ROOT, check=False).returncode == 0
