"""Keys with real processes: who inherits them, and `snf keys` beside a running service."""

import getpass
import json
import os
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from snf_app.cli.keys import keys
from tests.end_to_end.support.service import running, serving, snf
from tests.worker.support.helpers import until

KEY = "correct-horse-battery-staple"
ATTEMPT = "snf_worker.attempts.score"

Commands = tuple[list[str], list[str]]


def processes_with(text: str, home: Path) -> Commands:
    """The commands of all processes with a text among their variables, and of those of a home without it."""
    found: Commands = ([], [])
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or is another user's
            continue
        if text.encode() in variables:
            found[0].append(command)
        elif f"SNF_HOME={home}\0".encode() in variables:
            found[1].append(command)
    return found


def with_attempt(commands: Commands) -> Commands | None:
    return commands if any(ATTEMPT in command for command in chain(*commands)) else None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads the variables of processes from /proc")
def test_keys_are_in_the_environment_of_the_service_alone(home: Path) -> None:
    with running(
        "snf_app.cli.main", "up", home=home, shipped=False, api_keys=KEY, api_key=KEY, devices="cpu"
    ) as client:
        client.headers["x-api-key"] = KEY
        until(lambda: client.get("/v1/workers").json()["workers"])
        job = {"type": "score", "dataset": "mnist-mini", "model": "digits"}
        client.post("/v1/jobs", json=job).raise_for_status()
        having, lacking = until(lambda: with_attempt(processes_with(KEY, home)))
    assert sorted(command.split()[-1] for command in having) == ["snf_app.server", "up"]
    for part in ("snf_worker.broker.embedded", "snf_worker.runtime.main", ATTEMPT):
        assert any(part in command for command in lacking), (part, lacking)


def test_keys_are_made_rotated_and_revoked_beside_a_running_service(tmp_path: Path) -> None:
    def status(key: str, method: str = "GET", path: str = "/v1/me") -> int:
        return httpx.request(method, f"{client.base_url}{path}", headers={"x-api-key": key}).status_code

    def made(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    admin = snf(tmp_path, "keys", "create", "ann", "--role", "admin")
    assert "every caller must show a key" in admin.stderr
    with serving(tmp_path, shipped=False) as client:
        first = made(snf(tmp_path, "keys", "create", "cam", "--role", "score", "--expires", "90d", "--json"))
        until(lambda: status(first["key"]) == 200, seconds=2)
        assert status(first["key"], "DELETE", "/v1/datasets/mnist-mini") == 403
        assert status(admin.stdout.strip(), "DELETE", "/v1/datasets/mnist-mini") == 409
        second = made(snf(tmp_path, "keys", "rotate", "cam", "--overlap", "0m", "--json"))
        until(lambda: status(second["key"]) == 200, seconds=2)
        assert status(first["key"]) == 401
        assert snf(tmp_path, "keys", "revoke", "cam").stdout == f"revoked cam ({first['id']})\n"
        until(lambda: status(second["key"]) == 401, seconds=2)
        listed = made(snf(tmp_path, "keys", "--json"))["keys"]
        assert [(key["name"], key["role"], key["state"]) for key in listed] == [
            ("ann", "admin", "active"),
            ("cam", "score", "revoked"),
        ]
        assert "cam" in snf(tmp_path, "keys", "list").stdout
    text = (tmp_path / "logs" / "audit.jsonl").read_text()
    events = [record["event"] for record in map(json.loads, text.splitlines()) if record["event"].startswith("key-")]
    assert events == ["key-created", "key-created", "key-rotated", "key-revoked"]
    logs = "".join(path.read_text() for path in [*tmp_path.glob("*.log"), *tmp_path.glob("logs/*")])
    for secret in (admin.stdout.strip(), first["key"], second["key"]):
        # Its last part may have underscores of its own: snf_<id>_<secret>.
        assert secret.split("_", 2)[2] not in logs


def test_a_user_without_a_name_can_make_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setenv("SNF_HOME", str(tmp_path))
    monkeypatch.setattr(getpass, "getuser", no_name)
    done = CliRunner().invoke(keys, ["create", "cam", "--role", "score", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["key"].startswith("snf_")
    record = json.loads((tmp_path / "logs" / "audit.jsonl").read_text())
    assert record["user"] == str(os.getuid())


def test_a_damaged_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    for arguments in (["list"], ["create", "a", "--role", "read"], ["revoke", "a"]):
        done = snf(tmp_path, "keys", *arguments)
        assert done.returncode == 3
        assert "is damaged" in done.stderr
    assert (tmp_path / "keys.json").read_text() == "{"


def test_the_key_of_a_service_from_before_stays_valid_beside_new_ones(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("sesame-of-before\n")
    done = snf(tmp_path, "keys", "create", "cam", "--role", "score")
    assert done.returncode == 0, done.stderr
    assert "stays valid" in done.stderr
    with serving(tmp_path, shipped=False) as client:
        roles = [
            client.get("/v1/me", headers={"x-api-key": key}).json()["role"]
            for key in ("sesame-of-before", done.stdout.strip())
        ]
    assert roles == ["admin", "score"]
