"""Registry of trained models on disk, with numbered versions and aliases. Free of torch."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from snf_models.artifacts.manifest import (
    FILE,
    CalibrationRecord,
    CalibrationSummary,
    FitnessCheck,
    Manifest,
    file_label,
    in_words,
    read_json,
    read_manifest,
)
from snf_models.disk import folder_bytes, locked, new_folder, remove_folder, remove_leftovers, write_atomically
from snf_models.errors import (
    AliasRequired,
    ArtifactError,
    ModelNotFound,
    ModelReadOnly,
    NoLiveVersion,
    TooManyAliases,
    VersionInUse,
)
from snf_models.naming import LIVE, ModelRef, check_name, is_name, is_version, parse_ref
from snf_models.registry.calibrations import OWN, RECORD, CalibrationStore, LimitStore
from snf_models.texts import choices

ALIASES, ANNOUNCED = "aliases.json", "announced-live"
MAX_ALIASES = 100  # most aliases of a model besides `live`: all are read, and written anew, at each change


def read_aliases(folder: Path, versions: Collection[int]) -> dict[str, int]:
    """Read aliases. A version that was announced as live is live if it exists. Raises ``ArtifactError``."""
    path, announced = folder / ALIASES, _announced(folder)
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
        aliases = {str(alias): int(version) for alias, version in stored.items()}
        if announced is not None and announced in versions:
            aliases[LIVE] = announced
        return aliases
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{file_label(path)} is not a map of aliases to versions: {error}") from error


def write_aliases(folder: Path, aliases: Mapping[str, int]) -> None:
    """Replace the file of aliases; remove the announcement. The caller holds the lock of the folder."""
    write_atomically(folder / ALIASES, json.dumps(aliases, indent=1).encode())
    (folder / ANNOUNCED).unlink(missing_ok=True)


def announce_live(folder: Path, version: int, *, live: bool) -> None:
    """Note whether a new version is live, before its folder appears. The caller holds the lock."""
    if live:
        write_atomically(folder / ANNOUNCED, str(version).encode())
    elif _announced(folder) == version:  # by a publication that did not come to its end
        (folder / ANNOUNCED).unlink()


def _announced(folder: Path) -> int | None:
    try:
        return int((folder / ANNOUNCED).read_text())
    except (FileNotFoundError, ValueError):
        return None


Stamp = tuple[int, int, int]  # inode, time of change in ns and size of a file


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model with the calibration for its p-values. Free of torch."""

    name: str
    version: int
    path: Path
    read_only: bool
    stamp: Stamp | None  # of the manifest: another model may later have the same name and version
    calibration: int = OWN
    calibration_path: Path | None = None  # None for number 0, which is part of the artifact
    calibration_stamp: Stamp | None = None  # of its record

    @property
    def manifest(self) -> Manifest:
        return _cached_manifest(self.path, self.stamp)

    @property
    def calibration_summary(self) -> CalibrationSummary:
        if self.calibration_path is None:
            return self.manifest.calibration
        return _cached_record(self.calibration_path, self.calibration_stamp).summary


@lru_cache(maxsize=1024)
def _cached_manifest(path: Path, _stamp: Stamp | None) -> Manifest:
    return read_manifest(path)  # an artifact is immutable once written


@lru_cache(maxsize=1024)
def _cached_record(path: Path, _stamp: Stamp | None) -> CalibrationRecord:
    return read_json(path / RECORD, CalibrationRecord, "calibration")  # as immutable


def file_identity(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None  # reading the manifest raises the error
    return status.st_ino, status.st_mtime_ns, status.st_size


log = logging.getLogger(__name__)

ZOO = Path(__file__).parents[1] / "zoo"
REMOVED = "newest-removed"
"""File with the largest version that was removed: the number of a version is never used again."""


class Registry:
    """Registry of trained models on disk, with numbered versions, aliases such as ``live``, and calibrations.

    ``root/<name>/<version>/`` is an artifact, ``root/<name>/aliases.json`` holds the aliases of its versions, and
    ``root/<name>/calibrations/<version>/`` and ``root/<name>/limits/<version>/`` what was measured for a version later.
    The models in ``zoo``, by default those of ``SNF_SHIPPED_MODELS`` or else the shipped ones, are version 1 of their
    names and read-only. Versions appear atomically, so that readers need no lock; writers of a name lock its folder.
    """

    def __init__(self, root: Path, zoo: Path | None = None) -> None:
        self.root = root
        self.zoo = zoo or Path(os.environ.get("SNF_SHIPPED_MODELS") or ZOO)

    def names(self) -> list[str]:
        """Return the sorted names of all models that have a version, including those shipped with the product."""
        folders = {path.name for path in self._folders(self.root)} | {path.name for path in self._folders(self.zoo)}
        return sorted(name for name in folders if is_name(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Return the version numbers of a model in ascending order, none if unknown; raise ``InvalidName``."""
        check_name(name)
        numbers = {int(path.name) for path in self._folders(self.root / name) if is_version(path.name)}
        return sorted(numbers | ({1} if self._is_shipped(name, 1) else set()))

    def aliases(self, name: str) -> dict[str, int]:
        """Return the version of each alias; raise ``ModelNotFound``, ``ArtifactError``.

        ``live`` is the first version that is fit until it is moved. It is missing while all versions are unfit.
        """
        versions = self._known_versions(name)
        stored = read_aliases(self.root / name, versions)
        first = None if LIVE in stored else next((number for number in versions if not self.unfit(name, number)), None)
        return stored if first is None else {LIVE: first, **stored}

    def unfit(self, name: str, version: int) -> tuple[FitnessCheck, ...]:
        """Return the checks that a version failed. A damaged version counts as fit: loading names its error."""
        try:
            return self.with_calibration(name, version, OWN).manifest.unfit
        except ArtifactError:
            return ()

    def live_version(self, name: str) -> int | None:
        """Return the version that the plain name of a model means, that of the alias ``live``; None without one."""
        return self.aliases(name).get(LIVE)

    def resolve(self, ref: str) -> ModelVersion:
        """Return the model version for a reference such as ``name`` (alias ``live``), ``name:3`` or ``name@champion``.

        The version has its active calibration. Raises ``ModelNotFound``, ``NoLiveVersion``, ``ArtifactError``.
        """
        return self.find(parse_ref(ref))

    def find(self, ref: ModelRef) -> ModelVersion:
        """Return the version that a parsed reference names; raise as :meth:`resolve`."""
        name, version = self.locate(ref)
        return self.with_calibration(name, version, self.calibrations(name, version).active())

    def locate(self, ref: ModelRef) -> tuple[str, int]:
        """Return the name and version number of a reference; raise ``ModelNotFound``, ``NoLiveVersion``."""
        version = self._selected(ref)
        while version not in (versions := self._known_versions(ref.name)):
            # Meanwhile the alias may have moved away from a version that was then removed.
            before, version = version, self._selected(ref)
            if version == before:
                raise ModelNotFound(f"{ref.name} has no version {version}; it has: {versions}", "version")
        return ref.name, version

    def with_calibration(self, name: str, version: int, number: int) -> ModelVersion:
        """Return an existing version, set to use calibration ``number``, which is not checked."""
        shipped = self._is_shipped(name, version)
        path = (self.zoo if shipped else self.root) / name / str(version)
        calibration = self.calibrations(name, version).path(number)
        stamp = None if calibration is None else file_identity(calibration / RECORD)
        return ModelVersion(name, version, path, shipped, file_identity(path / FILE), number, calibration, stamp)

    def calibrations(self, name: str, version: int) -> CalibrationStore:
        """Return the store of the calibrations of a version; no file is read."""
        return CalibrationStore(self.root, name, version, lambda: self.with_calibration(name, version, OWN).manifest)

    def limits(self, name: str, version: int) -> LimitStore:
        """Return the store of the detection limits of a version; no file is read."""
        return LimitStore(self.root, name, version)

    def publish(
        self, artifact: Path, name: str, *, promote: bool = False, before_publish: Callable[[], None] = lambda: None
    ) -> ModelVersion:
        """Copy a trained model's folder into the registry as the next version of ``name``, and return it.

        It becomes live if no version is and it is fit. A job publishes once: its earlier version is returned.

        Args:
            artifact: The folder of a complete artifact.
            name: The name of the model.
            promote: Whether the version becomes live, fit or not, in place of any other.
            before_publish: Called when nothing else can prevent the publication; it may raise to stop it.

        Raises:
            ArtifactError: The artifact cannot be read.
            InvalidName: The name breaks the rule of names.
        """
        job = read_manifest(artifact).training.job
        check_name(name)
        with locked(self.root / name):
            known = None if job is None else self.of_job(name, job)
            if known is not None:
                if promote:
                    self._go_live(known)
                return known
            versions = self.versions(name)
            version = max([*versions, self._newest_removed(name)]) + 1
            remove_leftovers(self.root / name)
            # Left by a version of this number that was deleted by hand.
            for added in (CalibrationStore.FOLDER, LimitStore.FOLDER):
                shutil.rmtree(self.root / name / added / str(version), ignore_errors=True)
            with new_folder(self.root / name / str(version), folder_bytes(artifact)) as folder:
                shutil.copytree(artifact, folder, dirs_exist_ok=True)
                before_publish()
                announce_live(self.root / name, version, live=promote)
            # Without an entry in the file, the first fit version is live.
            if promote:
                self._write_alias(name, LIVE, version)
        return self.find(ModelRef(name, version))

    def of_job(self, name: str, job: str) -> ModelVersion | None:
        """Return the version that a training job made, or None."""
        for number in reversed(self.versions(name)):
            try:
                owner = self.with_calibration(name, number, OWN).manifest.training.job
            except ArtifactError as problem:
                # A damaged version of another job must not hide that of this job.
                log.warning("skipping %s:%d: %s", name, number, problem.detail)
                continue
            if owner == job:
                return self.find(ModelRef(name, number))
        return None

    def promote(self, version: ModelVersion) -> None:
        with locked(self.root / version.name):
            self._go_live(version)

    def set_alias(self, name: str, alias: str, version: int) -> int | None:
        """Point an alias at a version; return the version that it had before, or None.

        Raises ``ModelNotFound``, ``InvalidName``, ``TooManyAliases``, ``ArtifactError``.
        """
        check_name(alias)
        with self._writing(name):
            self.locate(ModelRef(name, version))
            aliases = self.aliases(name)
            before = aliases.get(alias)
            # `live` may be missing, and its place stays free.
            if before is None and alias != LIVE and len(aliases.keys() - {LIVE}) >= MAX_ALIASES:
                raise TooManyAliases(
                    f"{name} has {MAX_ALIASES} aliases besides {LIVE}, the most that a model may have; remove one first"
                )
            self._write_alias(name, alias, version)
        return before

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; raise ``AliasRequired`` for ``live`` of a fit version.

        Without the alias ``live`` of an unfit version, the first fit version is live, or none.
        Raises ``ModelNotFound``, ``NoLiveVersion``, ``ArtifactError``.
        """
        with self._writing(name):
            version = self._selected(ModelRef(name, alias))
            if alias == LIVE and not self.unfit(name, version):
                raise AliasRequired(
                    f"the alias {LIVE} of {name} cannot be removed; it points at version {version}: move it instead"
                )
            aliases = self.aliases(name)
            del aliases[alias]
            write_aliases(self.root / name, aliases)

    def remove(self, name: str, version: int) -> None:
        """Remove a version, with its calibrations and detection limits; its number is never used again.

        Raises ``VersionInUse`` while an alias points at it, ``ModelReadOnly`` for a shipped one, ``ModelNotFound``,
        ``ArtifactError``.
        """
        with self._writing(name):
            self.locate(ModelRef(name, version))
            if self._is_shipped(name, version):
                raise ModelReadOnly(f"{name}:{version} ships with the product and cannot be removed")
            aliases = sorted(alias for alias, target in self.aliases(name).items() if target == version)
            if aliases:
                raise VersionInUse(
                    f"{name}:{version} has the alias {', '.join(aliases)}: move the alias to another version first"
                )
            self._remove(name, version)

    def remove_model(self, name: str) -> None:
        """Remove all versions of a model and its aliases; the numbers are never used again.

        Raises ``ModelReadOnly`` where one of them is shipped, ``ModelNotFound``, ``ArtifactError``.
        """
        with self._writing(name):
            if self._is_shipped(name, 1):
                raise ModelReadOnly(f"{name} ships with the product and cannot be removed")
            # An alias must never point at a missing version: other aliases go first, the live version goes last.
            live = self.aliases(name).get(LIVE)
            write_aliases(self.root / name, {} if live is None else {LIVE: live})
            *others, last = sorted(self.versions(name), key=lambda version: version == live)
            for version in others:
                self._remove(name, version)
            write_aliases(self.root / name, {})  # the next fit version is live at once
            self._remove(name, last)

    def _remove(self, name: str, version: int) -> None:
        remove_leftovers(self.root / name)
        newest = max(version, self._newest_removed(name))
        write_atomically(self.root / name / REMOVED, str(newest).encode())
        remove_folder(self.root / name / str(version))
        for folder in (self.calibrations(name, version).folder, self.limits(name, version).folder):
            if folder.exists():
                remove_folder(folder)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        # A request for an unknown name must not create its folder.
        self._known_versions(name)
        with locked(self.root / name):
            yield

    def _selected(self, ref: ModelRef) -> int:
        if isinstance(ref.selector, int):
            return ref.selector
        aliases = self.aliases(ref.name)
        if ref.selector in aliases:
            return aliases[ref.selector]
        if ref.selector == LIVE:
            raise self._no_live_version(ref.name)
        known = ", ".join(sorted(aliases)) or "none"
        raise ModelNotFound(f"{ref.name} has no alias {ref.selector!r}; it has: {known}", "alias")

    def _no_live_version(self, name: str) -> NoLiveVersion:
        newest = self._known_versions(name)[-1]
        unfit = self.unfit(name, newest)
        return NoLiveVersion(
            f"no version of {name} is live: {name}:{newest} is unfit, {in_words(unfit)}. Train again, use the version "
            f"by its number, {name}:{newest}, or make it live all the same: snf models alias {name} {LIVE} {newest}",
            [(check.code, check.sentence) for check in unfit],
        )

    def _newest_removed(self, name: str) -> int:
        path = self.root / name / REMOVED
        try:
            return int(path.read_text()) if path.exists() else 0
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{file_label(path)} does not hold the number of a version") from error

    def _go_live(self, version: ModelVersion) -> None:
        if self.aliases(version.name).get(LIVE, 0) < version.version:
            self._write_alias(version.name, LIVE, version.version)

    def _known_versions(self, name: str) -> list[int]:
        versions = self.versions(name)
        if not versions:
            raise ModelNotFound(f"there is no model {name!r}; {choices(name, self.names())}")
        return versions

    def _write_alias(self, name: str, alias: str, version: int) -> None:
        write_aliases(self.root / name, self.aliases(name) | {alias: version})

    def _is_shipped(self, name: str, version: int) -> bool:
        return version == 1 and (self.zoo / name / "1" / FILE).is_file()

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
