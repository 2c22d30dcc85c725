from collections.abc import Callable

from snf_models.atomic_files import write_atomically
from snf_worker.keys.key_file import KeyConflict, KeyFile, KeysUnreadable, StoredKey
from snf_worker.settings import Settings

FIRST = "first"


def ensure_keys(settings: Settings, echo: Callable[[str], None]) -> None:
    """Create the first admin key in ``home/api-key`` if other machines can reach the service and it has none."""
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
    """Store the key in ``home/api-key`` as an admin key, unless it was stored before; a revoked key stays so."""
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
