# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Reading and writing of models at storage URLs, such as ``s3://bucket/models/parts``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.common import error_messages, fail, read_settings
from app.cli.out_file import ADVICE
from app.cli.progress import spinner
from snf_runtime.judged_counts import USAGE

if TYPE_CHECKING:
    from snf_client import Client


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path or a model name.

    >>> is_url("s3://bucket/models/parts"), is_url("parts.tar"), is_url("parts:3")
    (True, False, False)
    """
    return "://" in text


def write_to_location(model: str, folder: Path | None, url: str, client: Client | None, *, force: bool) -> None:
    """Write the files of a model version to a storage URL, such as ``s3://bucket/models/parts``.

    The command exits with code 2 if files of a model are there already, unless ``force`` is set.

    Args:
        model: Name and version.
        folder: The folder of its files; None for a model of a service.
        url: The location.
        client: The service.
        force: Whether files are written over.
    """
    from models.artifacts.at_location import files_at, write_artifact
    from models.artifacts.tar import unpack
    from models.locations.location import Location

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
    """Yield the path of a model's local tar file; a model given as a URL is fetched first.

    A model at a URL is packed into a temporary tar file.
    """
    from models.artifacts.at_location import fetch_artifact
    from models.artifacts.tar import pack
    from models.locations.location import Location

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
    """Fetch a model from a URL into this machine's cache, and return its folder.

    A model that is fetched is verified like an upload. If the cache holds the model already, it is not fetched again.
    """
    from models.artifacts.at_location import cached_artifact
    from models.locations.location import Location
    from worker.sandbox.verify_upload import verify_upload

    settings = read_settings(writes=True)

    def check(folder: Path) -> None:
        with spinner("verifying the model"):
            verify_upload(folder, settings.backbones_dir, lambda _done, _all: None)

    return cached_artifact(Location(url), settings.home / "cache" / "models", settings.max_model_bytes, check)
