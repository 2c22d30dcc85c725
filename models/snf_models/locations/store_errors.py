"""Translation of obstore's exceptions. Lasting errors are told apart from those that may pass."""

from __future__ import annotations

import re

from snf_models.errors import ModelsError
from snf_models.locations.errors import (
    FileChanged,
    FileUnreadable,
    LocationNotFound,
    LocationRefused,
    LocationUnavailable,
)

KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "set GOOGLE_SERVICE_ACCOUNT_PATH to the file of a key",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""What gives a process keys, by scheme."""
METADATA = ("169.254.", "fd00:ec2::", "metadata.google.internal")
"""Beginnings of the addresses where a cloud has the keys of a machine: they are asked where none are set."""
WRONG_REGION = ("BareRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint", "PermanentRedirect")
ARCHIVED = ("InvalidObjectState", "BlobArchived")
"""Codes of objects that must be restored before they can be read."""
BAD_KEYS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
PASSING = ("408", "409", "429")
"""Statuses of 400 to 499 that another attempt may not give."""


class AnswerCutOff(LocationUnavailable):
    """The answer of a server is lost or ends too early; the request is repeated."""


def store_error(error: Exception, url: str) -> ModelsError:
    """Translate an exception. The text has no address but the URL, so that it may be shown to callers."""
    from obstore.exceptions import PreconditionError  # noqa: PLC0415  # most processes do without

    text = str(error)
    # Where the answer to the last request of an upload in parts is lost, obstore aborts the upload, which has ended.
    has_ended = "NoSuchUpload" in text
    if not has_ended and (isinstance(error, FileNotFoundError) or "NoSuchBucket" in text):
        reason = ": the bucket does not exist" if "NoSuchBucket" in text else ""
        return LocationNotFound(f"there is nothing at {url}{reason}")
    if isinstance(error, PreconditionError):
        return FileChanged(f"{url} is not the file that it was")
    if (path := re.search(r'invalid path: Path "(.*)" (contained|could not)', text)) is not None:
        detail = f"expected names without '//', '.' and '..' between slashes, got {path[1][:200]!a}"
        return LocationRefused(f"{url} cannot be used: {detail}")
    if any(code in text for code in ARCHIVED):
        return FileUnreadable(f"{url} cannot be read: it is archived, and must be restored first")
    if not has_ended and (lasting := _lasting(text, url.partition("://")[0])) is not None:
        return LocationRefused(f"{url} cannot be used: {lasting}")
    # obstore does not repeat a request that was sent when the server closed the connection.
    is_dropped = "error sending request" in text and "retries" not in text
    kind = AnswerCutOff if has_ended or is_dropped or "body error" in text else LocationUnavailable
    return kind(f"{url} cannot be used: {_reason(text)}")


def setting_error(error: Exception, root: str) -> LocationRefused:
    """Return the error for wrong environment variables of a store."""
    reason = KEYS["az"] if "Account must be specified" in str(error) else _reason(str(error))
    return LocationRefused(f"{root} cannot be used: {reason}")


def _lasting(text: str, scheme: str) -> str | None:
    """Return a sentence for an error that every further attempt would give; None for another."""
    status = _status(text)
    code = status[:3] if status else ""
    if any(address in text.partition("\n")[0] for address in METADATA):
        return f"no keys were found: {KEYS[scheme]}"
    if any(sign in text for sign in WRONG_REGION) or (scheme == "s3" and code == "301"):
        return "it is in another region: set AWS_REGION to the region of the bucket"
    if any(sign in text for sign in BAD_KEYS) or code in ("401", "403"):
        return f"{_reason(text)}; check the keys in the environment"
    if code.startswith("4") and code not in PASSING and "RequestTimeout" not in text:
        hint = "; check AWS_REGION" if scheme == "s3" and code == "400" and "<Message>" not in text else ""
        return f"{_reason(text)}{hint}"
    return None


def _status(text: str) -> str | None:
    match = re.search(r"status code: (\d{3}[A-Za-z ]*)", text)
    return None if match is None else match[1].strip()


def _reason(text: str) -> str:
    """Return a sentence from an error of obstore, whose text goes on with the server's answer and its own data."""
    if message := re.search(r"<Message>(.*?)</Message>", text, re.DOTALL):
        return f"the server answered {message[1].strip().rstrip('.')!r}"
    if status := _status(text):
        return f"the server answered {status}"
    if kind := re.search(r"kind: (Connect|Timeout)", text):
        return (
            "no connection to the server can be made" if kind[1] == "Connect" else "the server gave no answer in time"
        )
    if "body error" in text:
        return "the answer of the server ends too early"
    return re.sub(r"https?://\S+", "the server", text.partition("\n")[0]).strip()
