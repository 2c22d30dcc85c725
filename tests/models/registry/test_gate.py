"""The gate before ``live``: unfit versions are kept, but the plain name of a model means the first fit one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snf_models.errors import AliasRequired, ModelNotFound, NoLiveVersion, VersionInUse
from snf_models.registry.registry import Registry
from tests.models.helpers import edit_manifest
from tests.support.paths import IMPORT_PATH, ROOT
from tests.support.trained import unfit_artifact

pytestmark = pytest.mark.usefixtures("unmeasured_processes")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", zoo=tmp_path / "no-zoo")


@pytest.fixture(scope="session")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real artifact after one step of training."""
    return unfit_artifact(tmp_path_factory)


def test_an_unfit_version_is_kept_but_not_live(registry: Registry, unfit: Path) -> None:
    first, second = (registry.publish(unfit, "digits") for _ in range(2))
    assert registry.aliases("digits") == {}
    assert registry.live_version("digits") != first.version
    assert registry.resolve("digits:1") == first
    for ref in ("digits", "digits@live"):
        with pytest.raises(
            NoLiveVersion, match=r"digits:2 is unfit, hardly trained: .*not below.*alias digits live 2"
        ) as no:
            registry.resolve(ref)
        assert [code for code, _detail in no.value.unfit] == ["hardly-trained"]
    with pytest.raises(ModelNotFound, match="has no alias 'champion'; it has: none"):
        registry.resolve("digits@champion")
    assert registry.set_alias("digits", "champion", 1) is None
    assert registry.aliases("digits") == {"champion": 1}
    assert registry.names() == ["digits"]
    assert second.manifest.unfit == registry.unfit("digits", 2) != ()


def test_the_first_fit_version_becomes_live_and_stays_it(registry: Registry, unfit: Path, artifact: Path) -> None:
    registry.publish(unfit, "digits")
    fit = registry.publish(artifact, "digits")
    assert registry.live_version("digits") == fit.version
    registry.publish(unfit, "digits")
    registry.publish(artifact, "digits")
    assert registry.aliases("digits") == {"live": 2}
    assert Registry(registry.root, registry.zoo).resolve("digits") == fit
    with pytest.raises(VersionInUse, match="digits:2 has the alias live"):
        registry.remove("digits", 2)
    with pytest.raises(AliasRequired, match="it points at version 2"):
        registry.remove_alias("digits", "live")
    registry.remove("digits", 1)
    assert registry.resolve("digits") == fit


def test_promotion_overrides_the_gate_and_is_taken_back(registry: Registry, unfit: Path, artifact: Path) -> None:
    promoted = registry.publish(unfit, "digits", promote=True)
    assert registry.live_version("digits") == promoted.version
    fit = registry.publish(artifact, "digits")
    assert registry.resolve("digits") == promoted, "what was promoted is not replaced unasked"
    registry.remove_alias("digits", "live")
    assert registry.resolve("digits") == fit
    assert registry.set_alias("digits", "live", 1) == 2
    assert registry.resolve("digits") == promoted
    registry.publish(unfit, "letters")
    assert registry.set_alias("letters", "live", 1) is None
    registry.remove_alias("letters", "live")
    with pytest.raises(NoLiveVersion):
        registry.remove_alias("letters", "live")
    late = registry.publish(unfit, "letters")
    registry.promote(late)
    assert registry.live_version("letters") == late.version


def test_models_of_earlier_versions_and_shipped_ones_count_as_fit(tmp_path: Path, unfit: Path) -> None:
    old = Path(shutil.copytree(unfit, tmp_path / "old"))
    edit_manifest(old, lambda document: document.pop("fitness"))
    shutil.copytree(old, tmp_path / "zoo" / "shipped" / "1")
    registry = Registry(tmp_path / "registry", tmp_path / "zoo")
    assert registry.publish(old, "digits").version == registry.live_version("digits")
    assert registry.resolve("shipped").read_only
    registry.publish(unfit, "shipped")
    assert registry.aliases("shipped") == {"live": 1}


def test_unfit_models_are_removed_whole_and_their_numbers_stay_used(
    registry: Registry, unfit: Path, artifact: Path
) -> None:
    for _ in range(2):
        registry.publish(unfit, "digits")
    registry.remove("digits", 2)
    registry.remove_model("digits")
    assert registry.names() == []
    assert registry.publish(unfit, "digits").version == 3
    with pytest.raises(NoLiveVersion):
        registry.resolve("digits")
    registry.remove("digits", 3)
    with pytest.raises(ModelNotFound):
        registry.resolve("digits")
    assert registry.publish(artifact, "digits").version == registry.live_version("digits")
    registry.publish(unfit, "digits", promote=True)
    registry.remove_model("digits")
    assert registry.names() == []


def killed_after_the_version_appeared(registry: Registry, artifact: Path, name: str) -> None:
    """Publish in a process that is killed as soon as the version's folder has its name."""
    program = (
        "import os, signal, sys; from pathlib import Path; "
        "from snf_models.registry import registry as module; original = module.new_folder\n"
        "from contextlib import contextmanager\n"
        "@contextmanager\n"
        "def then_die(path, size):\n"
        "    with original(path, size) as folder: yield folder\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.new_folder = then_die\n"
        "root, artifact, name = sys.argv[1:]\n"
        "module.Registry(Path(root), Path(root, 'none')).publish(Path(artifact), name, promote=False)\n"
    )
    command = [sys.executable, "-c", program, str(registry.root), str(artifact), name]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": IMPORT_PATH}, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_crash_after_the_version_appeared_makes_no_unfit_version_live_and_loses_no_fit_one(
    registry: Registry, unfit: Path, artifact: Path
) -> None:
    killed_after_the_version_appeared(registry, unfit, "digits")
    assert registry.versions("digits") == [1]
    with pytest.raises(NoLiveVersion):
        registry.resolve("digits")
    killed_after_the_version_appeared(registry, artifact, "digits")
    assert registry.resolve("digits").version == 2


def test_a_job_that_published_before_is_promoted_when_it_is_asked_again(
    registry: Registry, unfit: Path, tmp_path: Path
) -> None:
    of_job = Path(shutil.copytree(unfit, tmp_path / "of-job"))
    edit_manifest(of_job, lambda document: document["training"].update(job="job-1"))
    first = registry.publish(of_job, "digits")
    assert registry.publish(of_job, "digits") == first
    assert registry.live_version("digits") != first.version
    assert registry.publish(of_job, "digits", promote=True) == first
    assert registry.live_version("digits") == first.version
    assert json.loads((registry.root / "digits" / "aliases.json").read_text()) == {"live": 1}
