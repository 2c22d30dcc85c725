"""Command ``snf keys``."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from snf_app.cli.common import Json, ListingGroup, fail, print_json, read_settings, require_local
from snf_app.cli.output import TableColumn, print_table, text_of
from snf_app.http.request_log import audit_file, timestamp
from snf_client.schemas.base import NAME, NAME_RULE, Role
from snf_models.texts import choices
from snf_runtime.errors import FAILED, USAGE
from snf_worker.keys import RATE, ROLES, KeyConflict, KeyFile, KeysUnreadable, StoredKey, import_key_file
from snf_worker.settings import Settings

commands = typer.Typer(rich_markup_mode="markdown")
keys = typer.Typer(cls=ListingGroup)
commands.add_typer(keys, name="keys")

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
MAX_DURATION = timedelta(days=3650)


def _limits(key: StoredKey) -> str:
    return ", ".join(f"{rate} {unit}" for unit, rate in (("requests", key.requests), ("images", key.images)) if rate)


KEYS = (
    TableColumn("id", lambda key: key.id),
    TableColumn("name", lambda key: key.name, fold=16),
    TableColumn("role", lambda key: key.role),
    TableColumn("state", lambda key: key.state(datetime.now(UTC))),
    TableColumn("created", lambda key: text_of(key.created, "%Y-%m-%d"), drop=1),
    TableColumn("expires", lambda key: text_of(key.expires, "%Y-%m-%d"), drop=3),
    TableColumn("limits", _limits, fold=16, drop=2),
)

Ref = Annotated[str, typer.Argument(help="Name or id of the key.")]


def _role(text: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise typer.BadParameter(f"there is no role {text!r}; {choices(text, ROLES)}")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Holder of the key: a person, a camera, a program.")],
    role: Annotated[
        Role,
        typer.Option(
            parser=_role, metavar="|".join(ROLES), help="Permissions of the key; each role includes the ones before."
        ),
    ],
    expires: Annotated[str | None, typer.Option(help="Time for which the key is valid: 90d, 12h, 30m.")] = None,
    requests: Annotated[str | None, typer.Option(help="Requests at most: 600/minute.")] = None,
    images: Annotated[str | None, typer.Option(help="Images scored or drawn at most: 10000/hour.")] = None,
    as_json: Json = False,
) -> None:
    """Create an API key and print it once; it cannot be shown again.

    Only the hash of the key is stored.
    """
    end = None if expires is None else datetime.now(UTC) + _duration(expires, "--expires")
    _check("NAME", name, NAME, NAME_RULE)
    for option, rate in (("--requests", requests), ("--images", images)):
        _check(option, rate, RATE, "a rate such as 600/minute")
    settings = read_settings(writes=True)
    with _key_file(settings) as file:
        is_first = not settings.has_keys
        imported = None if settings.keys_file.exists() else import_key_file(settings)
        if imported is not None:
            typer.echo(f"snf: the key in {settings.key_file} stays valid, as {imported.name}, role admin", err=True)
            _record(settings, "key-imported", imported)
        key, text = file.create(name, role, expires=end, requests=requests, images=images)
    _print_secret(key, text, as_json)
    if is_first:
        typer.echo("snf: from now on every caller must show a key, the console too", err=True)
    _record(settings, "key-created", key)


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List all API keys, also expired and revoked ones: id, name, role, state and limits, never the secret text."""
    settings = read_settings()
    with _key_file(settings) as file:
        stored = file.read() if settings.keys_file.exists() else ()
    if as_json:
        print_json({"keys": [_view(key) for key in stored]})
        return
    print_table(KEYS, stored)


@keys.command()
def revoke(ref: Ref, as_json: Json = False) -> None:
    """Make an API key permanently invalid, given its name or id.

    Running services refuse it within a second.
    """
    settings = read_settings(writes=True)
    with _key_file(settings) as file:
        key = file.revoke(ref)
    _record(settings, "key-revoked", key)
    if as_json:
        print_json(_view(key))
    else:
        typer.echo(f"revoked {key.name} ({key.id})")


@keys.command()
def rotate(
    ref: Ref,
    overlap: Annotated[str, typer.Option(help="Time for which the old text stays valid: 24h; 0m: not at all.")] = "1h",
    as_json: Json = False,
) -> None:
    """Give an API key a new secret text, and print that text.

    The old text stays valid for --overlap, by default 1 hour.
    """
    duration = _duration(overlap, "--overlap")
    settings = read_settings(writes=True)
    with _key_file(settings) as file:
        key, text = file.rotate(ref, duration)
    _print_secret(key, text, as_json)
    _record(settings, "key-rotated", key)


@contextmanager
def _key_file(settings: Settings) -> Iterator[KeyFile]:
    """Give the stored keys; an error inside the block ends the command with a message."""
    require_local("snf keys", "keys are made and revoked on the machine of the service")
    try:
        yield KeyFile(settings.keys_file)
    except KeyConflict as error:
        raise fail(str(error), USAGE) from error
    except KeysUnreadable as error:
        raise fail(f"{error}; restore it from a backup, or remove it and make new keys", FAILED) from error
    except OSError as error:
        raise fail(f"{error.filename or settings.keys_file}: {error.strerror}", FAILED) from error


def _record(settings: Settings, event: str, key: StoredKey) -> None:
    """Write a change of the keys to the audit log; a failure to write does not undo the change."""
    who = {"time": timestamp(), "event": event, "caller": "command line", "user": _user()}
    try:
        audit_file(settings).write([who | {"id": key.id, "name": key.name, "for_role": key.role}])
    except OSError as error:
        typer.echo(f"snf: the audit log cannot be written: {error}", err=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return str(os.getuid())


def _print_secret(key: StoredKey, text: str, as_json: bool) -> None:
    if as_json:
        print_json(_view(key) | {"key": text})
        return
    # Only the text goes to stdout, so that it can be piped into a secret store.
    typer.echo(f"snf: {key.name} ({key.id}), role {key.role}; this key is not shown again:", err=True)
    typer.echo(text)


def _view(key: StoredKey) -> dict[str, Any]:
    now = datetime.now(UTC)
    shown = key.model_dump(mode="json", exclude={"digest", "replaced"})
    replaced = key.replaced.until if key.replaced is not None and key.replaced.until > now else None
    return shown | {"state": key.state(now), "replaced_valid_until": replaced and replaced.isoformat()}


def _duration(text: str, option: str) -> timedelta:
    parts = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    duration = int(parts[1]) * UNITS[parts[2]] if parts else None
    if duration is None or duration > MAX_DURATION:
        raise fail(f"{option}: expected a time such as 90d, 12h or 30m, at most 3650d; got {text!r}", USAGE)
    return duration


def _check(option: str, text: str | None, pattern: str, expected: str) -> None:
    if text is not None and re.fullmatch(pattern, text) is None:
        raise fail(f"{option}: expected {expected}; got {text!r}", USAGE)
