"""Creation of the first API key of a service that other machines can reach."""

from collections.abc import Callable

from models.atomic_files import write_atomically
from worker.keys.key_file import KeyConflict, KeyFile, KeysUnreadable, StoredKey
from worker.settings import Settings

FIRST = "first"
"""Name of the key that is created."""


def ensure_keys(settings: Settings, echo: Callable[[str], None]) -> None:
    """Create the first admin API key if the service needs a key and has none.

    A key is needed if other machines can reach the service.

    A service on loopback stays open, and so does a service with ``trusted_bind``. The text of the key is written to
    ``home/api-key``, readable by its owner only. If that file exists already, its text becomes a valid key.

    Args:
        settings: Settings with the address and the files of keys.
        echo: Function that shows a line to the user.

    Raises:
        ValueError: ``home/api-key`` is empty and there are no keys.
    """
    if not settings.needs_keys:
        return
    path = settings.key_file
    try:
        imported = import_key_file(settings)
    except (KeysUnreadable, OSError) as error:
        if not settings.keys_file.exists():
            raise
        # The service starts all the same, and accepts no key.
        echo(f"the key in {path} cannot be added to the stored keys: {error}")
        return
    if imported is not None:
        echo(
            f"the key in {path} stays valid: its hash is stored as {imported.name!r} with the role admin. "
            "Keep the key elsewhere and delete the file"
        )
    elif not settings.keys_file.exists():
        _make_first(settings, echo)


def import_key_file(settings: Settings) -> StoredKey | None:
    """Add the API key in the file ``api-key`` to the stored keys, as an admin key.

    The file is in the data folder. Only a hash of the key is stored.

    The file comes from a version without hashed keys, or from an interrupted creation of the first key. A text that was
    stored before is skipped, so that a revoked or rotated key stays so.

    Returns:
        The new key, or None if there is nothing to store.
    """
    try:
        text = settings.key_file.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except FileNotFoundError:
        return None
    return KeyFile(settings.keys_file).import_text(FIRST, "admin", text) if text else None


def _make_first(settings: Settings, echo: Callable[[str], None]) -> None:
    path = settings.key_file
    if path.exists() and not path.read_bytes().strip():
        raise ValueError(f"{path} is empty; delete it, and the service creates a key")
    try:
        KeyFile(settings.keys_file).create(
            FIRST, "admin", deliver=lambda text: write_atomically(path, f"{text}\n".encode(), mode=0o600)
        )
    except KeyConflict:
        return  # another service on this home has just created it
    echo(
        f"the address {settings.host} needs an API key: created one with the role admin, see {path}. "
        "Keep the key elsewhere and delete the file; `snf keys create` creates more keys"
    )
