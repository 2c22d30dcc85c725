"""Versions and aliases of models on disk. Free of torch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from models.artifacts.manifest import FILE, CalibrationRecord, CalibrationSummary, Manifest, file_label, read_manifest
from models.atomic_files import locked, new_folder, remove_folder, remove_leftovers, write_atomically
from models.errors import AliasRequired, ArtifactError, ModelNotFound, ModelReadOnly, VersionInUse
from models.naming import LIVE, ModelRef, check_name, is_name, is_version, parse_ref
from models.registry.aliases import read_aliases, write_aliases
from models.registry.calibrations import FOLDER as CALIBRATIONS
from models.registry.calibrations import OWN, RECORD, CalibrationStore, read_record

log = logging.getLogger(__name__)

ZOO = Path(os.environ.get("SNF_SHIPPED_MODELS") or Path(__file__).parents[1] / "zoo")
"""Folder of models that are served besides those of a home: the shipped ones, or ``SNF_SHIPPED_MODELS``."""

REMOVED = "newest-removed"
"""File with the largest version that was ever removed: a number that was given once never means another model."""

Stamp = tuple[int, int, int]
"""Inode, time of change in ns and size of a manifest."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model with one of its calibrations, and where both lie.

    ``stamp`` tells the manifest file from any other that lies or lay at its path: a model whose folder was moved away
    and trained again is another one, though name and version are the same. So does ``calibration_stamp`` of a
    calibration's record. ``calibration_path`` is absent for number 0, which is part of the artifact.
    """

    name: str
    version: int
    path: Path
    read_only: bool
    stamp: Stamp | None
    calibration: int = OWN
    calibration_path: Path | None = None
    calibration_stamp: Stamp | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest, read once a file. Raises ``ArtifactError``."""
        return _cached_manifest(self.path, self.stamp)

    @property
    def calibration_summary(self) -> CalibrationSummary:
        """What is known of its calibration, read once a file. Raises ``ArtifactError``."""
        if self.calibration_path is None:
            return self.manifest.calibration
        return _cached_record(self.calibration_path, self.calibration_stamp).summary


@lru_cache(maxsize=1024)
def _cached_manifest(path: Path, _stamp: Stamp | None) -> Manifest:
    return read_manifest(path)  # an artifact is immutable once written


@lru_cache(maxsize=1024)
def _cached_record(path: Path, _stamp: Stamp | None) -> CalibrationRecord:
    return read_record(path)  # as immutable


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None  # reading the manifest says what is wrong
    return found.st_ino, found.st_mtime_ns, found.st_size


class Registry:
    """``root/<name>/<version>/`` holds an artifact, ``root/<name>/aliases.json`` the movable names of versions.

    ``root/<name>/calibrations/<version>/`` holds the calibrations that were made of a version later. The shipped models
    of ``zoo`` are version 1 of their names; they lie where they are and nothing here writes there.
    Versions appear whole or not at all, so readers need no lock; writers of one name take a lock on its folder.
    """

    def __init__(self, root: Path, zoo: Path = ZOO) -> None:
        self.root = root
        self.zoo = zoo

    def names(self) -> list[str]:
        """Return the names that have a version, in order."""
        found = {path.name for path in self._folders(self.root)} | {path.name for path in self._folders(self.zoo)}
        return sorted(name for name in found if is_name(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """Return the versions of ``name``, oldest first; empty for an unknown name. Raises ``InvalidName``."""
        check_name(name)
        found = {int(path.name) for path in self._folders(self.root / name) if is_version(path.name)}
        return sorted(found | ({1} if self._is_shipped(name, 1) else set()))

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias -> version; ``live`` is the first version until it is moved. Raises ``ModelNotFound``."""
        versions = self._known_versions(name)
        return {LIVE: versions[0], **read_aliases(self.root / name)}

    def resolve(self, ref: str) -> ModelVersion:
        """Find ``name`` (its alias ``live``), ``name:3`` or ``name@champion``. Raises ``ModelNotFound``."""
        return self.find(parse_ref(ref))

    def find(self, ref: ModelRef) -> ModelVersion:
        """Find what a reference means now, with its active calibration. Raises ``ModelNotFound``, ``ArtifactError``."""
        name, version = self.locate(ref)
        return self.with_calibration(name, version, self.calibrations(name, version).active())

    def locate(self, ref: ModelRef) -> tuple[str, int]:
        """Find name and version of a reference, whatever its calibrations. Raises ``ModelNotFound``."""
        version = self._selected(ref)
        while version not in (versions := self._known_versions(ref.name)):
            # Between the two looks an alias may have moved away from a version, and that have been removed.
            before, version = version, self._selected(ref)
            if version == before:
                raise ModelNotFound(f"{ref.name} has no version {version}; it has: {versions}")
        return ref.name, version

    def with_calibration(self, name: str, version: int, number: int) -> ModelVersion:
        """Return a version that is there with one of its calibrations; loading it says whether that is there."""
        shipped = self._is_shipped(name, version)
        path = (self.zoo if shipped else self.root) / name / str(version)
        calibration = self.calibrations(name, version).path(number)
        stamp = None if calibration is None else _stamp(calibration / RECORD)
        return ModelVersion(name, version, path, shipped, _stamp(path / FILE), number, calibration, stamp)

    def calibrations(self, name: str, version: int) -> CalibrationStore:
        """Return the calibrations of a version."""
        return CalibrationStore(self.root, name, version)

    def publish(
        self,
        artifact: Path,
        name: str,
        *,
        promote: bool = False,
        before_publish: Callable[[], None] = lambda: None,
    ) -> ModelVersion:
        """Copy a complete artifact in as the next version of ``name``; it goes live when first or when ``promote``.

        The artifact of a job is published once: where a version carries its job's id already, that one is returned.
        ``before_publish`` is called when nothing else can come between any more, and stops it by raising. Raises
        ``ArtifactError`` for an unreadable artifact, ``InvalidName``.
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
            # Of a version of this number that somebody took away by hand.
            shutil.rmtree(self.root / name / CALIBRATIONS / str(version), ignore_errors=True)
            with new_folder(self.root / name / str(version)) as folder:
                shutil.copytree(artifact, folder, dirs_exist_ok=True)
                before_publish()
            if promote or not versions:
                self._write_alias(name, LIVE, version)
        return self.resolve(f"{name}:{version}")

    def of_job(self, name: str, job: str) -> ModelVersion | None:
        """Return the version of ``name`` that this job made, if any."""
        for number in reversed(self.versions(name)):
            try:
                owner = self.with_calibration(name, number, OWN).manifest.training.job
            except ArtifactError as problem:
                # Somebody else's damaged version is no reason to lose this job's.
                log.warning("skipping %s:%d: %s", name, number, problem.detail)
                continue
            if owner == job:
                return self.resolve(f"{name}:{number}")
        return None

    def promote(self, version: ModelVersion) -> None:
        """Make a version the live one of its name, unless a later one is."""
        with locked(self.root / version.name):
            self._go_live(version)

    def set_alias(self, name: str, alias: str, version: int) -> int | None:
        """Point ``alias`` of ``name`` at ``version``, atomically; return the version it pointed at before, if any.

        Raises ``ModelNotFound``, ``InvalidName``, ``ArtifactError``.
        """
        check_name(alias)
        with self._writing(name):
            self.locate(ModelRef(name, version))
            before = self.aliases(name).get(alias)
            self._write_alias(name, alias, version)
        return before

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias away. Raises ``AliasRequired`` for ``live``, ``ModelNotFound``, ``ArtifactError``."""
        with self._writing(name):
            version = self._selected(ModelRef(name, alias))
            if alias == LIVE:
                raise AliasRequired(f"{name} is what its alias {LIVE} points at, version {version}: move it instead")
            aliases = self.aliases(name)
            del aliases[alias]
            write_aliases(self.root / name, aliases)

    def remove(self, name: str, version: int) -> None:
        """Remove a version with its calibrations: gone for readers at once; its number is never given again.

        Raises ``VersionInUse`` while an alias points at it, ``ModelReadOnly`` for a shipped one, ``ModelNotFound``,
        ``ArtifactError``.
        """
        with self._writing(name):
            self.locate(ModelRef(name, version))
            if self._is_shipped(name, version):
                raise ModelReadOnly(f"{name}:{version} ships with the product and stays")
            aliases = sorted(alias for alias, target in self.aliases(name).items() if target == version)
            if aliases:
                raise VersionInUse(f"{name}:{version} is what {', '.join(aliases)} points at: move that away first")
            self._remove(name, version)

    def remove_model(self, name: str) -> None:
        """Remove all versions of a name with their calibrations and aliases; their numbers are never given again.

        Raises ``ModelReadOnly`` where one of them is shipped, ``ModelNotFound``, ``ArtifactError``.
        """
        with self._writing(name):
            if self._is_shipped(name, 1):
                raise ModelReadOnly(f"{name} ships with the product and stays")
            # At no time an alias points at nothing: others go at once, the live version goes last.
            live = self.aliases(name)[LIVE]
            write_aliases(self.root / name, {LIVE: live})
            *others, last = sorted(self.versions(name), key=lambda version: version == live)
            for version in others:
                self._remove(name, version)
            write_aliases(self.root / name, {})  # what comes after it is live at once
            self._remove(name, last)

    def _remove(self, name: str, version: int) -> None:
        remove_leftovers(self.root / name)
        newest = max(version, self._newest_removed(name))
        write_atomically(self.root / name / REMOVED, str(newest).encode())
        remove_folder(self.root / name / str(version))
        calibrations = self.calibrations(name, version).folder
        if calibrations.exists():
            remove_folder(calibrations)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        # A name without a version gets no folder from being asked for.
        self._known_versions(name)
        with locked(self.root / name):
            yield

    def _selected(self, ref: ModelRef) -> int:
        if isinstance(ref.selector, int):
            return ref.selector
        aliases = self.aliases(ref.name)
        if ref.selector not in aliases:
            raise ModelNotFound(f"{ref.name} has no alias {ref.selector!r}; it has: {', '.join(sorted(aliases))}")
        return aliases[ref.selector]

    def _newest_removed(self, name: str) -> int:
        path = self.root / name / REMOVED
        try:
            return int(path.read_text()) if path.exists() else 0
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{file_label(path)} does not say which versions there were") from error

    def _go_live(self, version: ModelVersion) -> None:
        if self.aliases(version.name)[LIVE] < version.version:
            self._write_alias(version.name, LIVE, version.version)

    def _known_versions(self, name: str) -> list[int]:
        versions = self.versions(name)
        if not versions:
            raise ModelNotFound(f"no model {name!r}; there are: {', '.join(self.names()) or 'none'}")
        return versions

    def _write_alias(self, name: str, alias: str, version: int) -> None:
        write_aliases(self.root / name, self.aliases(name) | {alias: version})

    def _is_shipped(self, name: str, version: int) -> bool:
        return version == 1 and (self.zoo / name / "1" / FILE).is_file()

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
