"""API keys that a running service accepts, from ``SNF_API_KEYS`` and the file ``keys.json``.

The file lies in the data folder ``SNF_HOME``.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from worker.keys.key_file import KeyFile, KeysUnreadable, StoredKey, digest_of, id_in
from worker.keys.roles import Role
from worker.settings import Settings

CHECK_S = 0.5
"""Seconds between checks of the file; a change of the keys takes effect within that time."""

Refusal = Literal["missing", "unknown", "expired", "revoked"]

log = logging.getLogger(__name__)


class KeyRefused(Exception):
    """Raised when a request has no API key, or one that is not accepted.

    ``reason`` is ``missing``, ``unknown``, ``expired`` or ``revoked``.
    """

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


@dataclass(frozen=True)
class HeldKey:
    """API key that the service accepts, with role and rate limits but without its secret text.

    Attributes:
        id: Public id of the key.
        name: Name that an administrator gave the key.
        role: Role of its holder.
        requests: Rate limit of requests, such as ``600/minute``; None for no limit.
        images: Rate limit of images; None for no limit.
    """

    id: str
    name: str
    role: Role
    requests: str | None = None
    images: str | None = None


class KeyRing:
    """All API keys that the running service accepts, against which requests are checked.

    They come from ``SNF_API_KEYS``, and from a file that is read again when it changes.

    If the file of keys becomes unreadable or disappears, its keys are invalid until it is back, and the service still
    asks for keys: a damaged file never opens the service. Keys of the environment stay valid.
    """

    def __init__(self, settings: Settings) -> None:
        self._environment = [
            (digest_of(text), HeldKey(f"environment-{number}", f"SNF_API_KEYS, number {number}", "admin"))
            for number, text in enumerate(settings.api_keys, 1)
        ]
        self._file = KeyFile(settings.keys_file)
        self._stored: dict[str, StoredKey] = {}
        self._imported: dict[str, StoredKey] = {}
        self._problem: str | None = None
        self._seen: tuple[int, int, int] | None = None
        self._next_check = 0.0
        self._lock = threading.Lock()
        self._refresh()

    @property
    def needed(self) -> bool:
        """Whether requests must carry an API key.

        The value is True if ``SNF_API_KEYS`` is set, or if a key file exists or did exist.
        """
        self._refresh()
        return bool(self._environment) or self._seen is not None or self._problem is not None

    def knows_id(self, text: str) -> bool:
        """Return whether the text of an API key contains an id that is listed in the service's key file.

        The secret of the key is not checked.
        """
        self._refresh()
        return id_in(text) in self._stored

    def find(self, text: str | None) -> HeldKey:
        """Return the accepted API key that matches the text a client sent, or raise ``KeyRefused``.

        Raises:
            KeyRefused: No key was given, or the key is not valid.
            KeysUnreadable: The file of keys cannot be read, so the key cannot be checked.
        """
        self._refresh()
        if not text:
            raise KeyRefused("missing")
        digest = digest_of(text)
        # All keys are compared in full, so that the time does not depend on which of them matches.
        matching = [held for known, held in self._environment if hmac.compare_digest(known, digest)]
        if matching:
            return matching[0]
        if self._problem is not None:
            raise KeysUnreadable(self._problem)
        # Neither an id nor the digest of a given text is a secret, so this look-up may take any time.
        stored = self._stored.get(id_in(text) or "") or self._imported.get(digest)
        now = datetime.now(UTC)
        if stored is None or not stored.matches(digest, now):
            raise KeyRefused("unknown")
        state = stored.state(now)
        if state != "active":
            raise KeyRefused(state)
        return HeldKey(stored.id, stored.name, stored.role, stored.requests, stored.images)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        with self._lock:
            self._next_check = now + CHECK_S
            try:
                stat = self._file.path.stat()
                version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if version == self._seen and self._problem is None:
                    return
                keys = self._file.read()
                self._stored = {key.id: key for key in keys}
                self._imported = {key.imported: key for key in keys if key.imported is not None}
            except FileNotFoundError:
                if self._seen is not None:
                    self._close(f"{self._file.path} is gone; put it back, or start the service again without keys")
                return
            except (KeysUnreadable, OSError) as error:
                self._close(str(error))
                return
            if self._problem is not None:
                log.warning("the keys can be read again")
            self._seen, self._problem = version, None

    def _close(self, problem: str) -> None:
        if problem != self._problem:
            log.error("no key of %s is accepted: %s", self._file.path, problem)
        self._stored, self._imported, self._problem = {}, {}, problem
