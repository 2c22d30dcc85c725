"""The architecture: directions of imports, names of files and classes, and what starts without torch."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.unmeasured import listed, unmeasured

PACKAGES = {
    "snf_models": ROOT / "models" / "snf_models",
    "snf_worker": ROOT / "worker" / "snf_worker",
    "snf_app": ROOT / "app" / "snf_app",
    "snf_client": ROOT / "client" / "snf_client",
    "snf_runtime": ROOT / "runtime" / "snf_runtime",
}
MAY_IMPORT = {
    "snf_runtime": {"snf_runtime"},
    "snf_models": {"snf_models", "snf_runtime", "snf_client"},
    "snf_worker": {"snf_worker", "snf_models", "snf_runtime", "snf_client"},
    "snf_app": {"snf_app", "snf_worker", "snf_models", "snf_runtime", "snf_client"},
    "snf_client": {"snf_client"},
}
LIBRARY = ("bijections", "flows", "training")
"""Folders of ``snf_models`` that could be published alone: they import each other, in this order, the errors, the
runner, and the settings of a training, which are among the schemas of the API."""
SETTINGS = {"snf_client.schemas.training"}
LAYERS = (
    {"errors"},
    *({name} for name in LIBRARY),
    {"texts"},
    {"threads"},
    {"disk", "naming", "archives"},
    {"images", "locations"},
    {"datasets"},
    {"artifacts"},
    {"features"},
    {"registry", "scoring"},
    {"anomaly"},
    {"score_rows"},
    {"loading"},
    {"scorer", "pipeline"},
    {"audit", "evaluation", "bulk", "exports"},
    {"limits"},
    {"recommendation"},
    {"zoo"},
)
"""Folders and modules at the top of ``snf_models``; each imports from its own folder and from the layers above."""
LOOSE = {
    "snf_app": {"main", "server", "state", "pages"},
    "snf_worker": {"settings", "errors", "log_setup", "process_setup", "keys"},
    "snf_models": {
        "scorer",
        "audit",
        "errors",
        "naming",
        "archives",
        "disk",
        "images",
        "texts",
        "exports",
        "score_rows",
        "threads",
    },
}
RUNTIME_NEEDS = {"numpy", "openvino", "PIL"}
"""What the runner is installed with."""
NOT_DOMAINS = {"access", "http", "metrics", "cli", "console"}
"""Folders of ``snf_app`` that have no calls of their own."""
LONGEST = 700


def sources(package: str) -> list[Path]:
    found = [path for path in PACKAGES[package].rglob("*.py") if "build" not in path.parts]
    assert len(found) > 5
    return found


@cache
def statements(source: Path) -> list[ast.Import | ast.ImportFrom | ast.ClassDef]:
    """Return the imports and the classes of a file, wherever in it; several tests ask for them."""
    nodes = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)]


def imports(source: Path) -> Iterator[str]:
    """Yield the modules that a file imports, wherever in it."""
    for node in statements(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_packages_import_in_one_direction(package: str) -> None:
    for source in sources(package):
        imported = {module.split(".")[0] for module in imports(source)} & MAY_IMPORT.keys()
        assert imported <= MAY_IMPORT[package], source


@pytest.mark.parametrize("package", ["snf_models", "snf_worker"])
def test_below_the_service_only_the_schemas_of_the_client_are_imported(package: str) -> None:
    """Records are stored as they are answered, so that their classes are those of the API."""
    for source in sources(package):
        client = {module for module in imports(source) if module.startswith("snf_client")}
        assert all(module.startswith("snf_client.schemas.") for module in client), source


def test_the_runner_imports_what_it_is_installed_with() -> None:
    for source in sources("snf_runtime"):
        imported = {module.split(".")[0] for module in imports(source)} - sys.stdlib_module_names
        assert imported <= RUNTIME_NEEDS | {"snf_runtime"}, source


def test_folders_of_models_import_in_one_direction() -> None:
    layer_of = {name: number for number, names in enumerate(LAYERS) for name in names}
    for source in sources("snf_models"):
        own = source.relative_to(PACKAGES["snf_models"]).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for module in imports(source):
            package, _, rest = module.partition(".")
            name = rest.split(".")[0]
            if package == "snf_models" and name != own:
                assert layer_of[name] < layer_of[own], f"{source.relative_to(ROOT)} imports {module}"


def test_the_library_imports_nothing_of_the_rest() -> None:
    own = {f"snf_models.{name}" for name in (*LIBRARY, "errors")}
    for source in sources("snf_models"):
        if source.relative_to(PACKAGES["snf_models"]).parts[0] in LIBRARY:
            imported = {".".join(module.split(".")[:2]) for module in imports(source)}
            assert {module for module in imported if module.startswith("snf_models")} <= own, source
            assert {module for module in imports(source) if module.startswith("snf_client")} <= SETTINGS, source


@pytest.mark.parametrize("package", sorted(LOOSE))
def test_only_named_files_are_loose(package: str) -> None:
    loose = {path.stem for path in PACKAGES[package].glob("*.py")} - {"__init__"}
    assert loose <= LOOSE[package]


def test_folders_of_calls_have_the_same_file_names() -> None:
    folders = [path for path in PACKAGES["snf_app"].iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    domains = [folder for folder in folders if folder.name not in NOT_DOMAINS]
    assert len(domains) > 8
    for folder in domains:
        assert (folder / "endpoints.py").exists(), f"{folder.relative_to(ROOT)} lacks endpoints.py"


def test_no_class_name_is_defined_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for source in sources(package):
            for node in statements(source):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(source.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_file_is_too_long(package: str) -> None:
    lengths = {source: len(source.read_text(encoding="utf-8").splitlines()) for source in sources(package)}
    assert {str(path): n for path, n in lengths.items() if n > LONGEST} == {}


STARTS_WITHOUT_TORCH = [
    "snf_app.cli.main",
    "snf_app.main",
    "snf_models.datasets",
    "snf_runtime.images.codec",
    "snf_models.pipeline.presets",
    "snf_models.registry.registry",
    "snf_models.scorer",
    "snf_models.loading.prepared",
    "snf_worker.attempts.score",
    "snf_worker.runtime.main",
]
IMPORTS = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert "torch" not in sys.modules, f"{module} loads torch"
"""


STARTS_WITHOUT_NUMPY = """
import sys, snf_worker.settings, snf_worker.runtime.launcher
loaded = {"numpy", "PIL", "torch", "celery"} & sys.modules.keys()
assert not loaded, loaded
"""


def test_the_launcher_loads_nothing_that_it_does_not_need() -> None:
    command = [sys.executable, "-c", STARTS_WITHOUT_NUMPY]
    done = subprocess.run(command, cwd=ROOT, env=unmeasured(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_does_not_load_torch() -> None:
    command = [sys.executable, "-c", IMPORTS, *STARTS_WITHOUT_TORCH]
    done = subprocess.run(command, cwd=ROOT, env=unmeasured(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_test_has_a_doctest_which_would_not_run() -> None:
    prompt = ">" * 3 + " "
    for path in (ROOT / "tests").rglob("*.py"):
        assert not any(line.strip().startswith(prompt) for line in path.read_text(encoding="utf-8").splitlines()), path


def test_tests_that_are_not_measured_exist() -> None:
    for entry in listed():
        path, *names = entry.split("::")
        assert (ROOT / path).exists(), entry
        assert not names or f"def {names[-1]}(" in (ROOT / path).read_text(encoding="utf-8"), entry
