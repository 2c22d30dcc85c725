"""The first key of a service that listens beyond this machine."""

from collections.abc import Callable

from models.atomic_files import write_atomically
from worker.keys.key_file import KeyConflict, KeyFile, KeysUnreadable, StoredKey
from worker.settings import Settings

FIRST = "first"
"""Name of the key that is made."""


def ensure_keys(settings: Settings, echo: Callable[[str], None]) -> None:
    """Make a key with the role admin wherever callers must show one and there is none.

    Loopback stays open, and so does an address that something else guards (`trusted_bind`). The text of the key is
    written to `home/api-key` for its owner to read. A text that is there already stays valid.

    Raises:
        ValueError: `home/api-key` is empty and there are no keys.
    """
    if not settings.needs_keys:
        return
    path = settings.key_file
    try:
        imported = import_key_file(settings)
    except (KeysUnreadable, OSError) as error:
        if not settings.keys_file.exists():
            raise
        echo(f"the key in {path} cannot be stored with the others: {error}")  # the service starts, and accepts none
        return
    if imported is not None:
        echo(
            f"the key in {path} stays valid: it is stored hashed, as {imported.name!r} with the role admin. "
            "Keep its text elsewhere and delete the file"
        )
    elif not settings.keys_file.exists():
        _make_first(settings, echo)


def import_key_file(settings: Settings) -> StoredKey | None:
    """Store the text of `home/api-key` as a key with the role admin; return None where there is nothing to store.

    The text is from before keys were hashed, or of a key whose hash was not written any more. One that was stored
    before is not stored again, so that a key that was revoked or rotated stays so.
    """
    try:
        text = settings.key_file.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except FileNotFoundError:
        return None
    return KeyFile(settings.keys_file).import_text(FIRST, "admin", text) if text else None


def _make_first(settings: Settings, echo: Callable[[str], None]) -> None:
    path = settings.key_file
    if path.exists() and not path.read_bytes().strip():
        raise ValueError(f"{path} is empty; remove it, and a key is made")
    try:
        KeyFile(settings.keys_file).create(
            FIRST, "admin", deliver=lambda text: write_atomically(path, f"{text}\n".encode(), mode=0o600)
        )
    except KeyConflict:
        return  # another service on this home has just made it
    echo(
        f"no key for {settings.host}: made one with the role admin, its text is in {path}. "
        "Keep it elsewhere and delete the file; `snf keys create` makes more keys"
    )
