"""Keys on disk: hashed, private, changed by one writer at a time, and damaged files that are named."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from snf_worker.keys import KeyConflict, KeyFile, KeysUnreadable, digest_of, id_in

NOW = datetime.now(UTC)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home" / "keys.json")


def test_a_key_is_stored_as_a_hash_that_its_owner_alone_can_read(file: KeyFile) -> None:
    key, text = file.create("line-1", "score", requests="600/minute")
    stored = file.path.read_text()
    assert text not in stored
    assert text.split("_", 2)[2] not in stored
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in file.path.parent.iterdir() if one.name != ".lock"] == ["keys.json"]
    assert file.read() == (key,)
    assert id_in(text) == key.id
    assert key.matches(digest_of(text), NOW)
    assert not key.matches(digest_of(text[:-1]), NOW)


@pytest.mark.parametrize("text", ["", "snf_x_y", "sesame", f"snf_{'0' * 12}_short", f"snf_{'0' * 12}_{'x' * 43}\n"])
def test_only_texts_that_were_made_here_have_an_id(text: str, file: KeyFile) -> None:
    assert id_in(text) is None
    key = file.import_text("first", "admin", text)
    assert key is not None
    assert (key.name, key.state(NOW), key.matches(digest_of(text), NOW)) == ("first", "active", True)
    assert file.import_text("first", "admin", text) is None


def test_secrets_have_256_bits(file: KeyFile) -> None:
    texts = [file.create(f"k{number}", "read")[1] for number in range(4)]
    assert all(len(text.split("_", 2)[2]) == 43 for text in texts)
    assert len(set(texts)) == 4


def test_names_are_taken_until_revoked(file: KeyFile) -> None:
    first, _ = file.create("line-1", "score")
    with pytest.raises(KeyConflict, match="exists"):
        file.create("line-1", "admin")
    assert file.revoke("line-1").state(NOW) == "revoked"
    second, _ = file.create("line-1", "read")
    assert [key.state(NOW) for key in file.read()] == ["revoked", "active"]
    assert file.revoke(second.id).id == second.id != first.id
    with pytest.raises(KeyConflict, match="no key 'line-1'"):
        file.revoke("line-1")


def test_the_text_before_a_rotation_is_valid_for_the_overlap(file: KeyFile) -> None:
    _, before = file.create("line-1", "score", expires=NOW + timedelta(days=9), images="5/day")
    key, after = file.rotate("line-1", timedelta(hours=1))
    assert (key.role, key.images, key.expires) == ("score", "5/day", NOW + timedelta(days=9))
    later = NOW + timedelta(hours=2)
    assert [key.matches(digest_of(text), NOW) for text in (before, after)] == [True, True]
    assert [key.matches(digest_of(text), later) for text in (before, after)] == [False, True]
    key, last = file.rotate("line-1", timedelta())
    assert [key.matches(digest_of(text), NOW) for text in (before, after, last)] == [False, False, True]
    assert not file.revoke("line-1").matches(digest_of(after), NOW)


def test_an_expired_key_is_not_rotated(file: KeyFile) -> None:
    key, _ = file.create("line-1", "score", expires=NOW - timedelta(minutes=1))
    assert key.state(NOW) == "expired"
    with pytest.raises(KeyConflict, match="expired"):
        file.rotate("line-1", timedelta())


def test_what_cannot_be_delivered_is_not_made(file: KeyFile) -> None:
    def fail(_text: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        file.create("line-1", "score", deliver=fail)
    assert not file.path.exists()


def test_writers_in_other_processes_too(file: KeyFile) -> None:
    program = "import sys; from snf_worker.keys import KeyFile; from pathlib import Path\n"
    program += "for n in range(20): KeyFile(Path(sys.argv[1])).create(f'{sys.argv[2]}-{n}', 'read')"
    command = [sys.executable, "-c", program, str(file.path)]
    running = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(file.read()) == 40


def damaged(entry: dict[str, Any] | None = None, **changes: Any) -> str:
    key = {"id": "0" * 12, "name": "a", "role": "read", "digest": "0" * 64, "created": "2026-01-01T00:00:00Z"}
    return json.dumps({"format": 1, "keys": [key | (entry or {})]} | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        damaged(format=2),
        damaged({"role": "root"}),
        damaged({"digest": "short"}),
        damaged({"created": "2026-01-01T00:00:00"}),
        damaged({"requests": "0/minute"}),
        damaged({"surprise": 1}),
        damaged().replace("}]", "}, " + json.dumps(json.loads(damaged())["keys"][0]) + "]"),
    ],
)
def test_a_damaged_file_is_named_and_not_overwritten(file: KeyFile, text: str) -> None:
    file.path.parent.mkdir(exist_ok=True)
    file.path.write_text(text)
    with pytest.raises(KeysUnreadable, match=r"keys\.json is damaged") as caught:
        file.read()
    assert "0" * 64 not in str(caught.value)
    with pytest.raises(KeysUnreadable):
        file.create("b", "read")
    assert file.path.read_text() == text
