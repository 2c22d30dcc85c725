from __future__ import annotations

import hmac
import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from snf_worker.keys.key_file import KeyFile, KeysUnreadable, StoredKey, digest_of, id_in
from snf_worker.keys.roles import Role
from snf_worker.settings import Settings

CHECK_S = 0.5
"""Seconds between checks of the file; a change of the keys takes effect within that time."""

Refusal = Literal["missing", "unknown", "expired", "revoked"]

log = logging.getLogger(__name__)


class KeyRefused(Exception):
    """Raised with a ``reason``: ``missing``, ``unknown``, ``expired`` or ``revoked``."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


@dataclass(frozen=True)
class HeldKey:
    """API key that the service accepts, without its secret."""

    id: str
    name: str  # given by an administrator
    role: Role
    requests: str | None = None  # such as ``600/minute``; None for no limit
    images: str | None = None


class KeyRing:
    """Keys of ``SNF_API_KEYS`` and of ``keys.json``. If that file is damaged or gone, keys are still needed."""

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
        """Whether requests must carry an API key: there are keys, or a key file did exist."""
        self._refresh()
        return bool(self._environment) or self._seen is not None or self._problem is not None

    def knows_id(self, text: str) -> bool:
        """Return whether the id in an API key is in the key file; the secret is not checked."""
        self._refresh()
        return id_in(text) in self._stored

    def find(self, text: str | None) -> HeldKey:
        """Return the accepted key that matches a text; raise ``KeyRefused`` or ``KeysUnreadable``."""
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
