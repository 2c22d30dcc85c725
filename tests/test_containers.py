"""Compose files, Dockerfile and lock files: hardening, and agreement with settings, commands and requirements."""

import re
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from snf_models.locations.object_store import KEYS
from snf_worker.broker.connection import redis_client, translate_redis_errors
from snf_worker.errors import BrokerDown
from snf_worker.settings import Settings
from tests.support.command_parser import parse
from tests.support.paths import ROOT
from tests.worker.support.redis_server import redis_program

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
LOCATIONS = yaml.safe_load((ROOT / "docker-compose.locations.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = ("api", "worker", "redis")
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())
RUNTIME = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())
LOCK, SBOM_LOCK = (ROOT / "docker" / f"{name}.lock" for name in ("requirements", "sbom"))
OWN = {package["project"]["name"] for package in (PROJECT, CLIENT, RUNTIME)}
PYTHONS = ("3.11", "3.12", "3.13")
SECRET = "/run/redis"


def locked(file: Path) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a lock file with their hashes."""
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
    found = []
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = entry.split(" --hash=")
        found.append((Requirement(requirement.strip()), [value.strip() for value in hashes]))
    return found


def grace_seconds(service: str) -> float:
    return float(SERVICES[service]["stop_grace_period"].removesuffix("s"))


def shell(service: str) -> str:
    """The script that a service runs."""
    script: str = SERVICES[service]["command"][-1]
    return script.replace("$$", "$")


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_can_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] >= 64
    assert re.fullmatch(r"(\$\{[A-Z]+_MEMORY:-)?\d+[mg]\}?", service["mem_limit"])
    assert not {"cap_add", "privileged", "devices", "pid", "ipc"} & service.keys()
    assert not [volume for volume in service["volumes"] if "docker.sock" in volume]


@pytest.mark.parametrize("name", LASTING)
def test_each_lasting_container_is_checked_restarted_and_given_time(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"
    assert grace_seconds(name) >= 30
    assert service.get("user", "") not in ("root", "0")


def test_stopping_takes_no_longer_than_the_grace() -> None:
    assert grace_seconds("api") >= Settings().kill_after_seconds
    assert grace_seconds("worker") > Settings().stop_grace_seconds


def test_only_the_service_is_reached_from_outside() -> None:
    networks = COMPOSE["networks"]
    private = {name for name, network in networks.items() if network and network.get("internal")}
    for name, service in SERVICES.items():
        published = [port.rpartition(":")[0] for port in service.get("ports", [])]
        if name == "api":
            assert published == ["127.0.0.1:${SNF_PORT:-8000}"]
        else:
            assert published == []
            assert service.get("network_mode") == "none" or set(service["networks"]) <= private


def test_the_password_is_mounted_where_it_is_needed() -> None:
    mounts = {
        name: volume.removeprefix("redis-password:")
        for name, service in SERVICES.items()
        for volume in service["volumes"]
        if volume.startswith("redis-password:")
    }
    assert mounts == dict.fromkeys(LASTING, f"{SECRET}:ro") | {"redis-password": SECRET}
    assert SERVICES["redis"]["depends_on"] == {"redis-password": {"condition": "service_completed_successfully"}}
    for name in ("api", "worker"):
        assert SERVICES[name]["environment"]["SNF_REDIS_PASSWORD_FILE"] == f"{SECRET}/password"
        assert "@" not in SERVICES[name]["environment"]["REDIS_URL"]


def test_the_password_is_drawn_once(tmp_path: Path) -> None:
    script = shell("redis-password").replace(SECRET, str(tmp_path))
    # Left by a start that ended before the file got its name. It can be removed but not written, as for root without
    # CAP_DAC_OVERRIDE; a link to a folder that is missing stands for that where the tests run as root.
    (tmp_path / "new").symlink_to(tmp_path / "missing" / "new")
    texts = set()
    for _ in range(2):
        subprocess.run(["sh", "-c", script], check=True)
        texts.add((tmp_path / "password").read_text())
    assert len(texts) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", texts.pop())
    assert [path.name for path in tmp_path.iterdir()] == ["password"]


def test_redis_is_durable_and_refuses_callers_without_the_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open/sesame@1\n")
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    options = f"exec {redis_program()} - --port 0 --unixsocket {tmp_path}/redis.sock --dir {data}"
    script = shell("redis").replace(f"{SECRET}/", f"{tmp_path}/").replace("/data", str(data))
    url = f"unix://{tmp_path}/redis.sock?db=0"
    server = subprocess.Popen(
        ["sh", "-c", script.replace("exec redis-server -", options)], stdout=subprocess.DEVNULL, umask=0o022
    )
    try:
        client = redis_client(Settings(home=tmp_path, redis_url=url, redis_password_file=tmp_path / "password"))
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if (tmp_path / "redis.sock").exists():
                break
            time.sleep(0.05)
        assert client.ping()
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        client.set("kept", "yes")
        assert [path for path in (data, *data.rglob("*")) if path.stat().st_mode & 0o077] == []
        with pytest.raises(BrokerDown, match=r"another password.*SNF_REDIS_PASSWORD_FILE"), translate_redis_errors():
            redis_client(Settings(home=tmp_path, redis_url=url)).ping()
        assert b"sesame" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    finally:
        server.terminate()
        assert server.wait(20) == 0


def test_containers_know_the_settings_and_commands_that_they_are_given() -> None:
    known = {f"SNF_{name.upper()}" for name in Settings.model_fields}
    services = *SERVICES.values(), *GPU["services"].values(), *LOCATIONS["services"].values()
    given = [name for service in services for name in _environment(service)]
    given += re.findall(r"\b(SNF_[A-Z_]+)=", DOCKERFILE)
    assert {name for name in given if name.startswith("SNF_")} <= known
    for words in (SERVICES["api"]["command"], SERVICES["worker"]["command"]):
        parse(words)
    parse(SERVICES["worker"]["healthcheck"]["test"][1:])
    (command,) = re.findall(r'^CMD \["(.*)"\]$', DOCKERFILE, re.MULTILINE)
    parse(command.split('", "'))
    (start,) = re.findall(r"/opt/snf/bin/(snf .*?) &&", DOCKERFILE)
    parse(start.split())


def test_locations_are_reached_by_service_and_workers_alone() -> None:
    api, worker = LOCATIONS["services"]["api"], LOCATIONS["services"]["worker"]
    assert api["environment"] == worker["environment"]
    assert {"SNF_ALLOWED_LOCATIONS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= api["environment"].keys()
    named = set(re.findall("[A-Z]+_[A-Z_]+", " ".join(KEYS.values())))
    files = {name for name in named if name.endswith("_PATH")}  # which the containers lack: they get the content
    assert named - files | {name.removesuffix("PATH") + "KEY" for name in files} <= api["environment"].keys()
    assert set(worker["networks"]) == {"broker", "published"}
    assert not any(name.startswith("AWS_") for service in SERVICES.values() for name in _environment(service))


def _environment(service: dict[str, Any]) -> dict[str, str]:
    return dict(service.get("environment", {}))


def test_torch_is_installed_by_the_range_of_the_project() -> None:
    (range_,) = re.findall(r'^ARG TORCH="(.*)"$', DOCKERFILE, re.MULTILINE)
    assert range_ in PROJECT["project"]["dependencies"]
    uses = [line for line in DOCKERFILE.splitlines() if "TORCH_INDEX_URL" in line and "pip install" in line]
    assert len(uses) == 1, "no other package comes from the index of torch"


def test_all_but_torch_is_installed_by_its_hash() -> None:
    copied = re.findall(r"^COPY (docker/\S+) (docker/\S+) \./$", DOCKERFILE, re.MULTILINE)
    assert copied == [("docker/requirements.lock", "docker/sbom.lock")]
    assert "!docker/*.lock" in (ROOT / ".dockerignore").read_text().splitlines()
    assert "--require-hashes --only-binary :all: --no-deps" in DOCKERFILE
    installs = re.findall(r"pip install [^\n]*", DOCKERFILE)
    assert [line for line in installs if "TORCH" not in line and "--no-deps --no-build-isolation" not in line] == []


@pytest.mark.parametrize("file", [LOCK, SBOM_LOCK], ids=lambda file: file.name)
def test_a_lock_file_has_versions_and_hashes_and_no_hosts(file: Path) -> None:
    entries = locked(file)
    assert len(entries) > 20
    for requirement, hashes in entries:
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement
        assert not requirement.url
    assert "://" not in file.read_text()
    assert not {"torch", "triton", *OWN} & {entry.name for entry, _ in entries}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_file_fits_all_that_the_project_needs(python: str) -> None:
    variables = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    versions = {
        canonicalize_name(entry.name): str(entry.specifier).removeprefix("==")
        for file in (LOCK, SBOM_LOCK)
        for entry, _ in locked(file)
        if entry.marker is None or entry.marker.evaluate(variables)
    }
    needed = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["features"],
        *CLIENT["project"]["dependencies"],
        *RUNTIME["project"]["dependencies"],
        *PROJECT["build-system"]["requires"],
        *(ROOT / "docker" / "sbom.in").read_text().split(),
    ]
    for text in needed:
        requirement = Requirement(text)
        if requirement.name not in {"torch", *OWN}:
            version = versions[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, f"{text}: run `make lock`, the lock file has {version}"


def test_gpus_are_reserved_for_service_and_worker_and_it_is_said_that_none_was_tried() -> None:
    assert GPU["services"].keys() == {"api", "worker"}
    for service in GPU["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert service["image"] != SERVICES["api"]["image"], "an image for CPUs is not overwritten"
        assert "utility" in service["environment"]["NVIDIA_DRIVER_CAPABILITIES"], "nvidia-smi finds the GPUs"
    Settings(scoring_device=GPU["services"]["api"]["environment"]["SNF_SCORING_DEVICE"])
    assert "has never run on a GPU" in (ROOT / "docker-compose.gpu.yml").read_text()
