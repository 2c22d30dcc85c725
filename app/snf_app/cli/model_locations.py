# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from snf_app.cli.common import error_messages, fail, read_settings
from snf_app.cli.out_file import ADVICE
from snf_app.cli.progress import spinner
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from snf_client import Client


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path or a model name.

    >>> is_url("s3://bucket/models/parts"), is_url("parts.tar"), is_url("parts:3")
    (True, False, False)
    """
    return "://" in text


def write_to_location(model: str, folder: Path | None, url: str, client: Client | None, *, force: bool) -> None:
    """Write a version to a URL; exit with code 2 if a model is there, unless ``force`` is set."""
    from snf_models.artifacts.files import files_at, unpack, write_artifact
    from snf_models.locations.location import Location

    location = Location(url)
    taken = [] if force else files_at(location)
    if taken:
        raise fail(f"{location} holds {', '.join(taken)} already; {ADVICE}", USAGE)
    with tempfile.TemporaryDirectory(prefix="snf-export-") as scratch, spinner(f"writing {model}"):
        if folder is None:
            assert client is not None
            tar, folder = Path(scratch, "model.tar"), Path(scratch, "model")
            client.models.download(model, tar)
            folder.mkdir()
            unpack([tar.read_bytes()], folder)
        write_artifact(folder, location)


@contextmanager
def tar_of(file: str) -> Iterator[Path]:
    """Yield the path of a tar file; a model at a URL is packed into a temporary one."""
    from snf_models.artifacts.files import fetch_artifact, pack
    from snf_models.locations.location import Location

    if not is_url(file):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="snf-import-") as scratch:
        folder, tar = Path(scratch, "model"), Path(scratch, "model.tar")
        folder.mkdir()
        with error_messages():
            fetch_artifact(Location(file), folder, read_settings().max_model_bytes)
            with tar.open("wb") as target:
                target.writelines(pack(folder))
        yield tar


def open_at_location(url: str) -> Path:
    """Return the folder of a model in this machine's cache, fetched and verified if it is new."""
    from snf_models.artifacts.files import cached_artifact
    from snf_models.locations.location import Location
    from snf_worker.sandbox.uploads import verify_upload

    settings = read_settings(writes=True)

    def check(folder: Path) -> None:
        with spinner("verifying the model"):
            verify_upload(folder, settings.backbones_dir, lambda _done, _all: None)

    return cached_artifact(Location(url), settings.home / "cache" / "models", settings.max_model_bytes, check)
