"""Settings: documented, safe, and handed to child processes unchanged."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from snf_app.access.authentication import KeyRefused, KeyRing
from snf_models.texts import error_line
from snf_worker.keys import KeyFile, digest_of, ensure_keys
from snf_worker.process_setup import child_environment
from snf_worker.runtime.supervisor import attempt_environment
from snf_worker.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SNF_HOME", "SNF_HOST", "SNF_API_KEYS", "REDIS_URL", "SNF_REDIS_URL", "SNF_TRUSTED_BIND"):
        monkeypatch.delenv(name, raising=False)


def test_every_field_is_documented() -> None:
    missing = [name for name, field in Settings.model_fields.items() if not field.description]
    assert missing == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org"])
def test_an_open_address_gets_a_key_that_is_kept(host: str, tmp_path: Path) -> None:
    said: list[str] = []
    first = Settings(home=tmp_path, host=host)
    for _ in range(2):
        ensure_keys(first, said.append)
    text = first.key_file.read_text().strip()
    [key] = KeyFile(first.keys_file).read()
    assert (key.role, key.matches(digest_of(text), key.created)) == ("admin", True)
    assert first.key_file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"api-key", "keys.json", ".lock"}
    [line] = said
    assert str(first.key_file) in line
    assert text not in line
    first.key_file.unlink()
    ensure_keys(first, said.append)
    assert len(said) == 1, "the hash is enough: no other key is made"


@pytest.mark.parametrize("others", [(), ("cam",), ("first",)])
def test_a_key_from_before_they_were_hashed_stays_valid(others: tuple[str, ...], tmp_path: Path) -> None:
    settings, said = Settings(home=tmp_path, host="0.0.0.0"), list[str]()
    for name in others:
        KeyFile(settings.keys_file).create(name, "score")
    settings.key_file.write_text("open-sesame-0123\n")
    for _ in range(2):
        ensure_keys(settings, said.append)
    held = KeyRing(settings).find("open-sesame-0123")
    assert (held.name, held.role) == ("first-2" if "first" in others else "first", "admin")
    assert "open-sesame-0123" not in settings.keys_file.read_text()
    [line] = said
    assert "stays valid" in line
    assert [key.name for key in KeyFile(settings.keys_file).read()] == [*others, held.name]


@pytest.mark.parametrize("change", ["revoked", "rotated"])
def test_a_key_from_before_is_not_stored_again(change: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host="0.0.0.0")
    settings.key_file.write_text("open-sesame-0123\n")
    ensure_keys(settings, lambda _line: None)
    file = KeyFile(settings.keys_file)
    text = ""
    if change == "revoked":
        file.revoke("first")
    else:
        _, text = file.rotate("first", timedelta(hours=1))
        assert [KeyRing(settings).find(one).name for one in ("open-sesame-0123", text)] == ["first", "first"]
        _, text = file.rotate("first", timedelta())
    kept = file.read()
    ensure_keys(settings, lambda _line: pytest.fail("nothing to say"))
    assert file.read() == kept
    with pytest.raises(KeyRefused):
        KeyRing(settings).find("open-sesame-0123")
    assert not text or KeyRing(settings).find(text).role == "admin"


def test_a_text_whose_hash_was_not_written_is_valid_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host="0.0.0.0")
    ensure_keys(settings, lambda _line: None)
    settings.keys_file.unlink()  # as if the service had died between the two files
    KeyFile(settings.keys_file).create("cam", "score")
    ensure_keys(settings, lambda _line: None)
    assert KeyRing(settings).find(settings.key_file.read_text().strip()).role == "admin"


def test_a_damaged_file_of_keys_does_not_stop_the_start(tmp_path: Path) -> None:
    settings, said = Settings(home=tmp_path, host="0.0.0.0"), list[str]()
    settings.key_file.write_text("open-sesame-0123\n")
    settings.keys_file.write_text("{")
    ensure_keys(settings, said.append)
    [line] = said
    assert "is damaged" in line
    assert settings.keys_file.read_text() == "{"


def test_services_that_start_together_share_the_key(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new", host="0.0.0.0")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ensure_keys(settings, lambda _line: None), range(8)))
    [key] = KeyFile(settings.keys_file).read()
    assert key.matches(digest_of(settings.key_file.read_text().strip()), key.created)


def test_an_empty_key_file_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        ensure_keys(Settings(home=tmp_path, host="0.0.0.0"), lambda _line: None)


@pytest.mark.parametrize(
    "given",
    [
        {"host": "0.0.0.0", "api_keys": ("k" * 16,)},
        {"host": "0.0.0.0", "trusted_bind": True},
        *({"host": host} for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost")),
    ],
)
def test_no_key_is_made_where_none_is_needed(given: dict[str, object], tmp_path: Path) -> None:
    settings = Settings.model_validate({"home": tmp_path, **given})
    ensure_keys(settings, lambda _: pytest.fail("nothing to say"))
    assert not settings.key_file.exists()
    assert not settings.keys_file.exists()


def test_a_job_is_kept_as_long_as_its_idempotency_key() -> None:
    with pytest.raises(ValidationError, match="Idempotency-Key"):
        Settings(retention_days=0.5)


@pytest.mark.parametrize("request_timeout_s", [0.5, 30, 400])
def test_no_part_is_killed_while_it_drains(request_timeout_s: float) -> None:
    settings = Settings(request_timeout_s=request_timeout_s, stop_grace_seconds=1)
    assert request_timeout_s < settings.drain_seconds < settings.kill_after_seconds
    assert Settings(request_timeout_s=request_timeout_s, stop_grace_seconds=500).kill_after_seconds > 500


def test_a_key_never_shows_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_API_KEYS", "open-sesame-0123")
    monkeypatch.setenv("SNF_PORT", "99999999")
    with pytest.raises(ValidationError) as caught:
        load_settings()
    assert "open-sesame-0123" not in str(caught.value)
    monkeypatch.setenv("SNF_PORT", "8000")
    assert "open-sesame-0123" not in repr(load_settings())


def test_a_key_that_can_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_API_KEYS", f"{'k' * 16},guess-me")
    with pytest.raises(ValidationError, match=r"at least 16 characters .* got 8 characters as number 2") as caught:
        load_settings()
    assert "guess-me" not in str(caught.value)
    assert ";" not in error_line(caught.value).partition("makes one")[2], "a default that depends on another value"


def test_a_lease_shorter_than_two_heartbeats_is_refused() -> None:
    with pytest.raises(ValidationError, match="heartbeat"):
        Settings(lease_seconds=5, heartbeat_seconds=4)


def test_bodies_in_flight_hold_the_largest_one() -> None:
    with pytest.raises(ValidationError, match="IN_FLIGHT"):
        Settings(max_upload_bytes=2048, max_bytes_in_flight=1024)


def test_children_get_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Settings(home=tmp_path, api_keys=("a" * 16, "b" * 16), host="0.0.0.0", redis_url="redis://h/1", threads=2)
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == made.model_copy(update={"api_keys": ()}), "all but the keys of callers"


def test_no_child_inherits_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SNF_API_KEYS", "open-sesame-0123")
    monkeypatch.setenv("SNF_API_KEY", "open-sesame-0123")
    monkeypatch.setenv("snf_api_keys", "open-sesame-0123")
    monkeypatch.setenv("Snf_Api_Key", "open-sesame-0123")
    monkeypatch.setenv("SNF_PORT", "8123")
    made = Settings(home=tmp_path, api_keys=("open-sesame-0123",))
    given = child_environment(made.environment(), {"MORE": "1"})
    assert "open-sesame-0123" not in " ".join(given.values())
    assert (given["SNF_PORT"], given["MORE"]) == ("8123", "1")


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


@pytest.mark.parametrize("name", ["HOME", "DATA_DIR", "REDIS_PASSWORD_FILE", "RUNTIME_DIR", "BACKBONES"])
def test_blanks_around_a_path_are_refused_and_those_in_it_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (" /tmp/x", "/tmp/x ", "/tmp/x\n", "  "):
        monkeypatch.setenv(f"SNF_{name}", path)
        with pytest.raises(ValidationError) as refused:
            load_settings()
        assert name.lower() in str(refused.value)
        assert f"without blanks around it, got {path!r}" in str(refused.value)
    monkeypatch.setenv(f"SNF_{name}", "/tmp/a b")
    assert getattr(load_settings(), name.lower()) == Path("/tmp/a b")


@pytest.mark.parametrize("proxies", ["nginx", "*", "10.0.0.0/40"])
def test_trusted_proxies_are_addresses_or_networks(proxies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_TRUSTED_PROXIES", "10.0.0.1,2001:db8::/32")
    assert load_settings().trusted_proxies == ("10.0.0.1/32", "2001:db8::/32")
    monkeypatch.setenv("SNF_TRUSTED_PROXIES", proxies)
    with pytest.raises(ValidationError, match="trusted_proxies"):
        load_settings()


def test_jobs_get_the_threads_of_the_service_unless_they_have_their_own() -> None:
    assert [Settings(threads=3, **own).train_threads for own in ({}, {"train_threads": 5})] == [3, 5]
    assert Settings().train_threads is None
    assert attempt_environment(Settings(threads=3), "cpu")["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("SNF_GRPC_PORT", "gRPC"),
        ("SNF_DRIFT_ALARM", "the tests of the newest"),
        ("SNF_MAX_FRUITLESS_ATTEMPTS", "this setting"),
    ],
)
def test_a_removed_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValidationError, match=rf"{what}.*re(mov|nam)ed.*unset {name}"):
        load_settings()


def test_allowed_locations_are_urls_and_children_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNF_ALLOWED_LOCATIONS", "s3://lots/2024/, file:///data")
    assert Settings().allowed_locations == ("s3://lots/2024", "file:///data")
    monkeypatch.setenv("SNF_ALLOWED_LOCATIONS", Settings().environment()["SNF_ALLOWED_LOCATIONS"])
    assert Settings().allowed_locations == ("s3://lots/2024", "file:///data")

    monkeypatch.setenv("SNF_ALLOWED_LOCATIONS", "/data")
    with pytest.raises(ValidationError, match="expected a URL such as s3://bucket/folder"):
        Settings()
