"""The key of a service that listens beyond this machine and was given none."""

import os
import secrets
from collections.abc import Callable

from worker.settings import Settings


def with_keys(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The settings with the key that `home` keeps, made at the first start, where callers must show one.

    Loopback stays open, and so does an address that something else guards (`trusted_bind`).
    """
    if not settings.needs_keys:
        return settings
    say(f"no SNF_API_KEYS for {settings.host}: the key that callers must show is in {settings.key_file}")
    return settings.model_copy(update={"api_keys": (_kept_key(settings),)})


def _kept_key(settings: Settings) -> str:
    path = settings.key_file
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link never replaces: of services that start together on one `home`, all get the first one's key.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    key = path.read_text(encoding="utf-8").strip()
    if not key:
        raise ValueError(f"{path} is empty; remove it, and a key is made")
    return key
