"""Versions and aliases: what is published is there whole, for every reader, whoever else publishes."""

import json
import multiprocessing
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snf_models.artifacts.files import WEIGHTS
from snf_models.artifacts.manifest import FILE
from snf_models.errors import (
    AliasRequired,
    ArtifactError,
    InvalidName,
    ModelNotFound,
    ModelReadOnly,
    NoLiveVersion,
    TooManyAliases,
    VersionInUse,
)
from snf_models.naming import parse_ref
from snf_models.registry.registry import MAX_ALIASES, Registry
from snf_models.scorer import load_model
from tests.models.helpers import edit_manifest
from tests.models.registry.publishing import publish_versions
from tests.support.forked_context import forked_context
from tests.support.trained import unfit_artifact


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", zoo=tmp_path / "no-zoo")


@pytest.fixture
def zoo(artifact: Path, tmp_path: Path) -> Path:
    shutil.copytree(artifact, tmp_path / "zoo" / "shipped" / "1")
    return tmp_path / "zoo"


def test_versions_count_up_and_the_first_is_live(registry: Registry, artifact: Path) -> None:
    assert (registry.names(), registry.versions("digits")) == ([], [])
    with pytest.raises(ModelNotFound, match="no model 'digits'; there are: none"):
        registry.resolve("digits")
    first, second = (registry.publish(artifact, "digits") for _ in range(2))
    assert (first.version, second.version) == (1, 2)
    assert not first.read_only
    assert registry.names() == ["digits"]
    assert registry.versions("digits") == [1, 2]
    assert registry.aliases("digits") == {"live": 1}
    assert registry.resolve("digits").version == 1
    assert registry.resolve("digits:2") == second
    assert second.manifest.training.preset == "snf-glow-tiny"
    assert load_model(second.path).manifest == first.manifest


def test_promotion_and_aliases(registry: Registry, artifact: Path) -> None:
    registry.publish(artifact, "digits")
    registry.publish(artifact, "digits", promote=True)
    assert registry.resolve("digits").version == 2
    registry.set_alias("digits", "champion", 1)
    assert registry.resolve("digits@champion").version == 1
    assert registry.resolve("digits@live").version == 2
    registry.set_alias("digits", "live", 1)
    assert registry.resolve("digits").version == 1
    assert registry.aliases("digits") == {"live": 1, "champion": 1}
    assert Registry(registry.root, registry.zoo).aliases("digits") == {"live": 1, "champion": 1}
    second, third = (registry.publish(artifact, "digits") for _ in range(2))
    registry.promote(third)
    registry.promote(second)
    assert registry.resolve("digits") == third, "a late promotion does not take a later version back"


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def die(*_arguments: object) -> None:
    raise Killed


@pytest.mark.parametrize("point", ["_write_alias", "find"])
def test_a_promotion_is_not_lost_where_the_process_dies_after_the_version_is_there(
    registry: Registry, artifact: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    registry.publish(artifact, "digits")
    registry.set_alias("digits", "champion", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, point, die)
        with pytest.raises(Killed):
            registry.publish(artifact, "digits", promote=True)
    assert Registry(registry.root, registry.zoo).aliases("digits") == {"live": 2, "champion": 1}
    registry.publish(artifact, "digits")
    assert registry.aliases("digits") == {"live": 2, "champion": 1}
    registry.set_alias("digits", "live", 1)
    assert Registry(registry.root, registry.zoo).aliases("digits") == {"live": 1, "champion": 1}


def test_a_promotion_that_published_nothing_promotes_no_later_version(
    registry: Registry, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.publish(artifact, "digits")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)  # which gives the folder its name
        with pytest.raises(Killed):
            registry.publish(artifact, "digits", promote=True)
    assert registry.versions("digits") == [1]
    assert registry.publish(artifact, "digits").version == 2
    assert registry.aliases("digits") == {"live": 1}


def test_aliases_only_point_at_versions(registry: Registry, artifact: Path) -> None:
    registry.publish(artifact, "digits")
    with pytest.raises(ModelNotFound, match=r"digits has no version 7; it has: \[1\]"):
        registry.set_alias("digits", "champion", 7)
    with pytest.raises(ModelNotFound, match="no model 'letters'; there are: digits"):
        registry.set_alias("letters", "champion", 1)
    with pytest.raises(InvalidName, match="Champion"):
        registry.set_alias("digits", "Champion", 1)
    assert registry.aliases("digits") == {"live": 1}


def test_the_aliases_of_a_model_are_limited(registry: Registry, artifact: Path) -> None:
    for _ in range(2):
        registry.publish(artifact, "digits")
    for number in range(MAX_ALIASES):
        registry.set_alias("digits", f"line-{number}", 1)
    with pytest.raises(TooManyAliases, match="digits has 100 aliases besides live, the most that a model may have"):
        registry.set_alias("digits", "another", 1)
    assert registry.set_alias("digits", "line-7", 2) == 1
    assert registry.set_alias("digits", "live", 2) == 1
    registry.remove_alias("digits", "line-7")
    registry.set_alias("digits", "another", 1)


def test_a_move_tells_the_way_back_and_aliases_go_again(registry: Registry, artifact: Path) -> None:
    for _ in range(2):
        registry.publish(artifact, "digits")
    assert registry.set_alias("digits", "live", 2) == 1
    assert registry.set_alias("digits", "champion", 1) is None
    assert registry.set_alias("digits", "champion", 2) == 1
    with pytest.raises(AliasRequired, match="version 2: move it instead"):
        registry.remove_alias("digits", "live")
    registry.remove_alias("digits", "champion")
    assert registry.aliases("digits") == {"live": 2}
    with pytest.raises(ModelNotFound, match="no alias 'champion'; it has: live"):
        registry.remove_alias("digits", "champion")
    with pytest.raises(ModelNotFound, match="no model 'letters'"):
        registry.remove_alias("letters", "champion")
    assert not (registry.root / "letters").exists()


def test_a_removed_version_is_gone_with_its_calibrations_and_its_number(registry: Registry, artifact: Path) -> None:
    first, second, third = (registry.publish(artifact, "digits") for _ in range(3))
    calibrations = registry.calibrations("digits", 3)
    calibrations.publish(b"", first.manifest.calibration)
    registry.set_alias("digits", "champion", 3)
    with pytest.raises(VersionInUse, match="has the alias champion"):
        registry.remove("digits", 3)
    registry.remove_alias("digits", "champion")
    (registry.root / "digits" / f".3.{'a' * 32}").mkdir()
    registry.remove("digits", 3)
    assert not third.path.exists()
    assert not calibrations.folder.exists()
    assert registry.versions("digits") == [1, 2]
    with pytest.raises(ModelNotFound, match=r"no version 3; it has: \[1, 2\]"):
        registry.resolve("digits:3")
    for missing in (3, 9):
        with pytest.raises(ModelNotFound):
            registry.remove("digits", missing)
    fourth = registry.publish(artifact, "digits")
    assert fourth.version == 4, "a number never means another model"
    registry.remove("digits", 2)
    assert registry.publish(artifact, "digits").version == 5
    assert registry.resolve("digits") == first
    rest = {path.name for path in (registry.root / "digits").iterdir()}
    assert rest == {"1", "4", "5", "aliases.json", "calibrations", "newest-removed", ".lock"}
    (registry.root / "digits" / "newest-removed").write_text("some")
    with pytest.raises(ArtifactError, match="newest-removed does not hold"):
        registry.publish(artifact, "digits")
    assert second.version == 2


def test_a_removed_model_is_gone_with_its_numbers(registry: Registry, artifact: Path) -> None:
    versions = [registry.publish(artifact, "digits") for _ in range(3)]
    registry.calibrations("digits", 3).publish(b"", versions[0].manifest.calibration)
    registry.set_alias("digits", "live", 2)
    registry.set_alias("digits", "champion", 3)
    registry.remove_model("digits")
    assert not any(version.path.exists() for version in versions)
    assert registry.names() == []
    with pytest.raises(ModelNotFound, match="no model 'digits'"):
        registry.resolve("digits")
    with pytest.raises(ModelNotFound):
        registry.remove_model("digits")
    assert registry.publish(artifact, "digits").version == 4
    assert registry.aliases("digits") == {"live": 4}
    assert {path.name for path in (registry.root / "digits" / "calibrations").iterdir()} == set()


def test_a_removal_that_was_cut_off_leaves_no_alias_of_nothing(
    registry: Registry, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        registry.publish(artifact, "digits")
    registry.set_alias("digits", "live", 2)
    registry.set_alias("digits", "champion", 1)
    removed: list[Path] = []

    def remove_two(path: Path) -> None:
        if len(removed) == 2:
            raise OSError(5, "the disk is gone")
        removed.append(path)
        shutil.rmtree(path)

    monkeypatch.setattr("snf_models.registry.registry.remove_folder", remove_two)
    with pytest.raises(OSError, match="the disk is gone"):
        registry.remove_model("digits")
    assert registry.versions("digits") == [2]
    assert registry.aliases("digits") == {"live": 2}
    assert registry.resolve("digits").version == 2
    monkeypatch.undo()
    registry.remove_model("digits")
    assert registry.names() == []


def test_shipped_models_are_not_removed(zoo: Path, artifact: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", zoo=zoo)
    mine = registry.publish(artifact, "shipped", promote=True)
    with pytest.raises(ModelReadOnly, match="shipped:1 ships with the product"):
        registry.remove("shipped", 1)
    with pytest.raises(VersionInUse, match="has the alias live"):
        registry.remove("shipped", 2)
    with pytest.raises(ModelReadOnly, match="shipped ships with the product"):
        registry.remove_model("shipped")
    registry.set_alias("shipped", "live", 1)
    registry.remove("shipped", 2)
    assert registry.resolve("shipped").read_only
    assert not mine.path.exists()


def test_a_name_is_always_found_while_its_versions_come_and_go(registry: Registry, artifact: Path) -> None:
    for _ in range(20):
        registry.publish(artifact, "digits")
    done, found = threading.Event(), list[int]()

    def look() -> None:
        while not done.is_set():
            found.append(registry.locate(parse_ref("digits"))[1])

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(look) for _ in range(3)]
        try:
            for version in range(2, 21):
                registry.set_alias("digits", "live", version)
                registry.remove("digits", version - 1)
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert len(set(found)) > 3


@pytest.mark.parametrize(
    "ref",
    [
        *("digits:2", "digits:0", "digits:-1", "digits:one", "digits:1.0", "digits:" + "9" * 30, "digits@champion"),
        *("digits:01", "digits:1_0", "digits: 1", "digits:\u0661", "digits:\u00b2", "digits:", "digits@", "digits:@"),
        *("digits:1@live", "digits@live:1", "Digits", "../digits", "digits/1", "", ":1", "@live", "digits\n", "d" * 65),
    ],
)
def test_references_to_nothing(registry: Registry, artifact: Path, ref: str) -> None:
    registry.publish(artifact, "digits")
    with pytest.raises(ModelNotFound):
        registry.resolve(ref)


@pytest.mark.parametrize("name", ["", "Digits", "a/b", "..", ".hidden", "-a", "_a", "a b", "ä", "a" * 65, "a\n"])
def test_names_that_are_none(registry: Registry, artifact: Path, name: str) -> None:
    with pytest.raises(InvalidName, match="expected 1 to 64 of a-z"):
        registry.publish(artifact, name)
    assert not registry.root.exists()


def test_shipped_models_are_version_1_and_stay_as_they_are_and_others_may_be_served_in_their_place(
    zoo: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path / "registry", zoo=zoo)
    before = sorted(path.relative_to(zoo) for path in zoo.rglob("*"))
    shipped = registry.resolve("shipped")
    assert (shipped.version, shipped.read_only, shipped.path) == (1, True, zoo / "shipped" / "1")
    mine = registry.publish(artifact, "shipped")
    assert (mine.version, mine.read_only) == (2, False)
    assert registry.resolve("shipped") == shipped
    registry.set_alias("shipped", "live", 2)
    assert registry.resolve("shipped") == mine
    assert registry.resolve("shipped:1") == shipped
    assert sorted(path.relative_to(zoo) for path in zoo.rglob("*")) == before
    assert Registry(tmp_path / "home").names()
    monkeypatch.setenv("SNF_SHIPPED_MODELS", str(tmp_path / "none"))
    assert Registry(tmp_path / "home").names() == []


def test_a_model_trained_again_in_the_same_place_is_another(registry: Registry, artifact: Path, tmp_path: Path) -> None:
    first = registry.publish(artifact, "digits")
    assert first.manifest.training.job is None
    (registry.root / "digits").rename(tmp_path / "away")
    second = registry.publish(artifact, "digits")
    manifest = second.path / FILE
    other = second.manifest.model_copy(update={"training": second.manifest.training.model_copy(update={"job": "b"})})
    manifest.unlink()
    manifest.write_text(other.model_dump_json())
    again = registry.resolve("digits:1")
    assert len({first, second, again}) == 3
    assert again.manifest.training.job == "b"


def test_half_a_model_is_never_seen(registry: Registry, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that fails half-way leaves no version and no rest."""

    def fail(_source: str, destination: str, **_: object) -> None:
        (Path(destination) / WEIGHTS).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(OSError, match="No space left"):
        registry.publish(artifact, "digits")
    monkeypatch.undo()
    assert registry.versions("digits") == []
    assert registry.names() == []
    assert {path.name for path in (registry.root / "digits").iterdir()} <= {".lock"}
    assert registry.publish(artifact, "digits").version == 1


def test_what_is_no_artifact_is_not_published(registry: Registry, copy: Path) -> None:
    (copy / FILE).write_text("{}")
    with pytest.raises(ArtifactError, match=FILE):
        registry.publish(copy, "digits")
    assert registry.names() == []


@pytest.mark.parametrize("content", ["", "[]", '{"live": "newest"}', "\x00"])
def test_damaged_aliases_name_their_file(registry: Registry, artifact: Path, content: str) -> None:
    registry.publish(artifact, "digits")
    (registry.root / "digits" / "aliases.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"aliases\.json is not a map of aliases"):
        registry.resolve("digits")
    assert registry.names() == ["digits"], "one damaged model does not hide the names of all"


def test_folders_that_are_no_models_are_no_models(registry: Registry, artifact: Path) -> None:
    registry.publish(artifact, "digits")
    for folder in ("Upper", "empty", ".git", "digits/.3.abc", "digits/notes"):
        (registry.root / folder).mkdir()
    for folder in ("0", "01", "\u00b2", "\u0663", "1" + 9 * "0"):
        (registry.root / "digits" / folder).mkdir()
    (registry.root / "file").write_text("")
    assert registry.names() == ["digits"]
    assert registry.versions("digits") == [1]


def test_several_processes_publish_at_once(registry: Registry, artifact: Path) -> None:
    context = forked_context()
    answers: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=publish_versions, args=(registry.root, artifact, 5, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    versions = [answers.get(timeout=120) for _ in range(15)]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert sorted(versions) == list(range(1, 16))
    assert registry.versions("digits") == list(range(1, 16))
    for version in versions:
        folder = registry.resolve(f"digits:{version}").path
        assert {path.name for path in folder.iterdir()} == {path.name for path in artifact.iterdir()}
        assert (folder / WEIGHTS).read_bytes() == (artifact / WEIGHTS).read_bytes()
    aliases = json.loads((registry.root / "digits" / "aliases.json").read_text())
    assert aliases["live"] in versions
    rest = {path.name for path in (registry.root / "digits").iterdir()} - {str(version) for version in versions}
    assert rest == {"aliases.json", ".lock"}


pytestmark = pytest.mark.usefixtures("unmeasured_processes")


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


def test_a_crash_after_the_version_appeared_makes_no_unfit_version_live_and_loses_no_fit_one(
    registry: Registry, unfit: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_and_die(model: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "find", die)
            with pytest.raises(Killed):
                registry.publish(model, "digits")

    publish_and_die(unfit)
    assert registry.versions("digits") == [1]
    with pytest.raises(NoLiveVersion):
        registry.resolve("digits")
    publish_and_die(artifact)
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
