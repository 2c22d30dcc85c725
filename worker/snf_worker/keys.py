"""API keys, stored as hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from snf_client.schemas.base import Name, Role
from snf_models.disk import locked, write_atomically
from snf_worker.settings import Settings

ROLES: tuple[Role, ...] = get_args(Role)
"""All roles in ascending order; each role includes the permissions of those before it."""


MAX_FILE_BYTES = 16 * 2**20
TEXT = re.compile(r"snf_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
RATE = r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$"

KeyState = Literal["active", "expired", "revoked"]
Rate = Annotated[str, Field(pattern=RATE)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KeysUnreadable(ValueError):
    """Raised when the file of API keys is damaged or too large to be read."""


class KeyConflict(ValueError):
    """Raised when the name of a key is taken, or no valid key has the given name or id."""


class _KeyModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplacedSecret(_KeyModel):
    """Hash of the previous secret of a rotated API key, valid until the time ``until``."""

    digest: Digest
    until: AwareDatetime


class StoredKey(_KeyModel):
    """API key in the key file, with a hash instead of the secret."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: Name
    role: Role
    digest: Digest
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    replaced: ReplacedSecret | None = None
    imported: Digest | None = Field(None, description="Digest of the text in `home/api-key` that became this key.")
    requests: Rate | None = Field(None, description="Largest rate of requests, such as 600/minute.")
    images: Rate | None = Field(None, description="Largest rate of images, scored or sampled, such as 10000/hour.")

    def state(self, now: datetime) -> KeyState:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def matches(self, given: str, now: datetime) -> bool:
        """Compare a SHA-256 digest in hexadecimal in constant time; a replaced secret counts while it is valid."""
        current = hmac.compare_digest(self.digest, given)
        if self.replaced is None or self.replaced.until <= now:
            return current
        return current | hmac.compare_digest(self.replaced.digest, given)


class _Content(_KeyModel):
    format: Literal[1] = 1
    keys: tuple[StoredKey, ...] = ()


def digest_of(text: str) -> str:
    """Return a key's SHA-256 digest. One pass is enough for 256 random bits; more would slow every request."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def id_in(text: str) -> str | None:
    """Return the id part of an API key of the form ``snf_<id>_<secret>``, or None."""
    match = TEXT.fullmatch(text)
    return match[1] if match else None


class KeyFile:
    """Hashes of API keys, changed by several processes. Methods raise ``KeysUnreadable`` or ``OSError``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[StoredKey, ...]:
        """Return all keys, including expired and revoked ones; raise ``FileNotFoundError``."""
        with self.path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise KeysUnreadable(f"{self.path} is larger than {MAX_FILE_BYTES} bytes")
        try:
            keys = _Content.model_validate_json(text).keys
        except ValidationError as error:
            # Without the input, which would bring digests into logs.
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise KeysUnreadable(f"{self.path} is damaged: {place}: {first['msg']}") from None
        if len({key.id for key in keys}) < len(keys):
            raise KeysUnreadable(f"{self.path} is damaged: an id occurs twice")
        return keys

    def create(
        self,
        name: str,
        role: Role,
        *,
        expires: datetime | None = None,
        requests: str | None = None,
        images: str | None = None,
        deliver: Callable[[str], None] = lambda _text: None,
    ) -> tuple[StoredKey, str]:
        """Create a key and return its secret, which is not stored; no key is created if ``deliver`` raises."""
        now, id = _now(), secrets.token_hex(6)
        text = _new_text(id)
        key = StoredKey(
            id=id,
            name=name,
            role=role,
            digest=digest_of(text),
            created=now,
            expires=expires,
            requests=requests,
            images=images,
        )
        with self._changing() as keys:
            if any(stored.name == name and stored.state(now) != "revoked" for stored in keys):
                raise KeyConflict(f"a key named {name!r} exists; revoke or rotate it, or choose another name")
            deliver(text)
            keys.append(key)
        return key, text

    def import_text(self, name: str, role: Role, text: str) -> StoredKey | None:
        """Add a key, with a number after its name if that is taken; return None if it was stored before."""
        id, digest, now = id_in(text) or secrets.token_hex(6), digest_of(text), _now()
        with self._changing() as keys:
            if any(key.id == id or digest in (key.digest, key.imported) for key in keys):
                return None
            taken = {key.name for key in keys if key.state(now) != "revoked"}
            names = chain([name], (f"{name}-{number}" for number in count(2)))
            free = next(free for free in names if free not in taken)
            keys.append(StoredKey(id=id, name=free, role=role, digest=digest, imported=digest, created=now))
            return keys[-1]

    def revoke(self, ref: str) -> StoredKey:
        """Revoke the key with an id or name for good; raise ``KeyConflict`` if no valid key has it."""
        with self._changing() as keys:
            place = _find(keys, ref)
            keys[place] = keys[place].model_copy(update={"revoked": _now(), "replaced": None})
            return keys[place]

    def rotate(self, ref: str, overlap: timedelta) -> tuple[StoredKey, str]:
        """Replace the secret of a key; the old one stays valid for ``overlap``; raise ``KeyConflict``."""
        now = _now()
        with self._changing() as keys:
            place = _find(keys, ref)
            key = keys[place]
            if key.state(now) == "expired":
                raise KeyConflict(f"the key {key.name!r} expired at {key.expires:%Y-%m-%d %H:%M} UTC; create another")
            text = _new_text(key.id)
            replaced = ReplacedSecret(digest=key.digest, until=now + overlap) if overlap else None
            keys[place] = key.model_copy(update={"digest": digest_of(text), "replaced": replaced})
            return keys[place], text

    @contextmanager
    def _changing(self) -> Iterator[list[StoredKey]]:
        """Yield the keys for changes, which are written unless the block raises; other processes wait."""
        with locked(self.path.parent):
            keys = list(self.read()) if self.path.exists() else []
            before = tuple(keys)
            yield keys
            if tuple(keys) != before:
                content = _Content(keys=tuple(keys)).model_dump_json(indent=1, exclude_none=True)
                write_atomically(self.path, content.encode(), mode=0o600)


def _find(keys: Sequence[StoredKey], ref: str) -> int:
    """Return the place of the API key with the id ``ref``, or else of the key with this name that is not revoked."""
    for name in ("id", "name"):
        for place, key in enumerate(keys):
            if key.revoked is None and getattr(key, name) == ref:
                return place
    raise KeyConflict(f"there is no key {ref!r} that is not revoked; `snf keys list` shows all")


def _new_text(id: str) -> str:
    return f"snf_{id}_{secrets.token_urlsafe(32)}"


def _now() -> datetime:
    return datetime.now(UTC)


FIRST = "first"


def ensure_keys(settings: Settings, echo: Callable[[str], None]) -> None:
    """Create the first admin key in ``home/api-key`` if other machines can reach the service and it has none."""
    if not settings.needs_keys:
        return
    path, stored = settings.key_file, KeyFile(settings.keys_file)
    try:
        imported = import_key_file(settings)
    except (KeysUnreadable, OSError) as error:
        if not stored.path.exists():
            raise
        # The service starts all the same, and accepts no key.
        echo(f"the key in {path} cannot be added to the stored keys: {error}")
        return
    if imported is not None:
        echo(
            f"the key in {path} stays valid: its hash is stored as {imported.name!r} with the role admin. "
            "Keep the key elsewhere and delete the file"
        )
    elif not stored.path.exists():
        if path.exists() and not path.read_bytes().strip():
            raise ValueError(f"{path} is empty; delete it, and the service creates a key")
        with suppress(KeyConflict):  # another service on this home has just created it
            stored.create(FIRST, "admin", deliver=lambda text: write_atomically(path, f"{text}\n".encode(), mode=0o600))
            echo(
                f"the address {settings.host} needs an API key: created one with the role admin, see {path}. "
                "Keep the key elsewhere and delete the file; `snf keys create` creates more keys"
            )


def import_key_file(settings: Settings) -> StoredKey | None:
    """Store the key in ``home/api-key`` as an admin key, unless it was stored before; a revoked key stays so."""
    try:
        text = settings.key_file.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except FileNotFoundError:
        return None
    return KeyFile(settings.keys_file).import_text(FIRST, "admin", text) if text else None
