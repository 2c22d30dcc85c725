"""Settings: documented, safe, and handed to child processes unchanged."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SNF_HOME", "SNF_HOST", "SNF_API_KEYS", "REDIS_URL", "SNF_REDIS_URL", "SNF_TRUSTED_BIND"):
        monkeypatch.delenv(name, raising=False)


def test_every_field_is_documented() -> None:
    missing = [name for name, field in Settings.model_fields.items() if not field.description]
    assert missing == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org"])
def test_refuses_an_open_address_without_keys(host: str) -> None:
    with pytest.raises(ValidationError, match="SNF_API_KEYS"):
        Settings(host=host)


@pytest.mark.parametrize("extra", [{"api_keys": ("k",)}, {"trusted_bind": True}])
def test_an_open_address_with_a_guard(extra: dict[str, object]) -> None:
    assert Settings.model_validate({"host": "0.0.0.0", **extra}).host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert Settings(host=host).host == host


def test_a_key_never_shows_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_API_KEYS", "sesame")
    monkeypatch.setenv("SNF_PORT", "99999999")
    with pytest.raises(ValidationError) as caught:
        load_settings()
    assert "sesame" not in str(caught.value)
    monkeypatch.setenv("SNF_PORT", "8000")
    assert "sesame" not in repr(load_settings())


def test_a_lease_shorter_than_two_heartbeats_is_refused() -> None:
    with pytest.raises(ValidationError, match="heartbeat"):
        Settings(lease_seconds=5, heartbeat_seconds=4)


def test_bodies_in_flight_hold_the_largest_one() -> None:
    with pytest.raises(ValidationError, match="in flight"):
        Settings(max_upload_bytes=2048, max_bytes_in_flight=1024)


def test_children_get_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Settings(home=tmp_path, api_keys=("a", "b"), host="0.0.0.0", redis_url="redis://h/1", threads=2)
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == made


def test_unset_redis_url_wins_over_an_inherited_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Settings(home=tmp_path, redis_url=None)
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings().redis_url is None


def test_the_runtime_folder_is_short_however_deep_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Settings(home=tmp_path / ("d" * 120) / ("e" * 120))
    assert len(str(deep.runtime_folder / "broker.sock")) < 100
    assert deep.runtime_folder != Settings(home=tmp_path).runtime_folder
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "another"))
    assert Settings(home=deep.home).runtime_folder == deep.runtime_folder
