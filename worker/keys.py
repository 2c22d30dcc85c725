"""The first key of a service that listens beyond this machine and has none."""

from collections.abc import Callable

from models.files import write_atomically
from worker.key_file import KeyConflict, KeyFile
from worker.settings import Settings

FIRST = "first"
"""Name of the key that is made."""


def with_keys(settings: Settings, say: Callable[[str], None]) -> Settings:
    """Return the settings of a service that asks for a key wherever callers must show one.

    Loopback stays open, and so does an address that something else guards (`trusted_bind`). Where a key is needed and
    there is none, one with the role admin is made; its text is written to `home/api-key` for its owner to read.

    Raises:
        ValueError: `home/api-key` is empty.
    """
    if not settings.needs_keys:
        return settings
    path = settings.key_file
    if path.exists():
        # From before keys were hashed, or the text of one whose hash was not written any more.
        text = path.read_text(encoding="utf-8").strip()
        if not text:
            raise ValueError(f"{path} is empty; remove it, and a key is made")
        say(f"the key that callers of {settings.host} must show is in {path}")
        return settings.model_copy(update={"api_keys": (text,)})
    try:
        KeyFile(settings.keys_file).create(
            FIRST, "admin", deliver=lambda text: write_atomically(path, f"{text}\n".encode(), mode=0o600)
        )
    except KeyConflict:
        return settings  # another service on this home has just made it
    say(
        f"no key for {settings.host}: made one with the role admin, its text is in {path}. "
        "Keep it elsewhere and delete the file; `snf keys create` makes more keys"
    )
    return settings
