"""Settings of all processes, read from ``SNF_*`` environment variables and validated together."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from snf_models.errors import LocationRefused
from snf_models.scoring import EngineName, EngineOptions
from snf_worker.jobs.record import Queue

MIN_KEY_CHARACTERS = 16
REMOVED = {
    "SNF_GRPC_PORT": "gRPC has been removed; use the Open Inference Protocol over HTTP",
    "SNF_MAX_FRUITLESS_ATTEMPTS": "this setting has been renamed; set SNF_MAX_ATTEMPTS_WITHOUT_PROGRESS",
    **dict.fromkeys(
        ("SNF_DRIFT_ALARM", "SNF_DRIFT_IMAGES", "SNF_DRIFT_MIN_IMAGES"),
        "the tests of the newest images for drift have been removed; set SNF_DRIFT_MARTINGALE",
    ),
}
"""What to say of variables that earlier versions had."""


def _split(value: Any) -> Any:
    """Split comma-separated text into its parts without blanks and empty parts; return other values unchanged."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _long_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_CHARACTERS:
            raise ValueError(
                f"expected keys of at least {MIN_KEY_CHARACTERS} characters that cannot be guessed, got {len(key)} "
                f"characters as number {number}; `snf keys create NAME --role admin` makes one"
            )
    return keys


def _check_device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda:[0-9]{1,2}", name) is None:
        raise ValueError(f"expected auto, cpu or cuda: with a number, such as cuda:0; got {name!r}")
    return name


def _location_url(text: str) -> str:
    from snf_models.locations.location import Location  # noqa: PLC0415 - few installations allow any

    try:
        return Location(text).url
    except LocationRefused as error:
        raise ValueError(error.detail) from error


def _without_blanks_around(value: Any) -> Any:
    # Such a path is relative, and names another folder than the one that was meant.
    if isinstance(value, str) and value != value.strip():
        raise ValueError(f"expected a path without blanks around it, got {value!r}; remove them")
    return value


T = TypeVar("T")
ListOf = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
LowerCase = BeforeValidator(lambda text: str(text).lower())  # as browsers send hosts and origins
HostName = Annotated[str, Field(pattern=r"^(\*|[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])$"), LowerCase]
Origin = Annotated[str, Field(pattern=r"^https?://[a-z0-9_.\[\]:-]{1,260}$"), LowerCase]
Network = Annotated[str, AfterValidator(lambda text: str(ipaddress.ip_network(text, strict=False)))]
Device = Annotated[str, AfterValidator(_check_device)]
AllowedLocation = Annotated[str, AfterValidator(_location_url)]
# Absolute, because child processes may run in another folder.
AbsolutePath = Annotated[
    Path, BeforeValidator(_without_blanks_around), AfterValidator(lambda path: path.expanduser().resolve())
]


class _BelowHome:
    """Path below ``home`` as an attribute of the settings."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, settings: Settings, _owner: type[Settings]) -> Path:
        return settings.home.joinpath(*self._parts)


class Settings(BaseSettings):
    """All settings of the service, the workers and the jobs; raise ``pydantic.ValidationError``."""

    model_config = SettingsConfigDict(
        env_prefix="SNF_",
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address the service listens on."""
    port: int = Field(8000, ge=1, le=65535)
    """TCP port the service listens on."""
    api_keys: Annotated[ListOf[str], AfterValidator(_long_keys)] = Field((), repr=False)
    """Keys with the role admin of at least 16 characters, separated by commas, in addition to those of `snf keys`.
    Without any key the service is open on loopback. On another address it creates a key and writes it to
    `home/api-key`."""
    access_log: bool = False
    """Write a line for every request to `home/logs/access.jsonl`, as JSON."""
    trusted_bind: bool = False
    """Require no key on an address other than loopback, because something else protects the port."""
    allowed_hosts: ListOf[HostName] = ()
    """Host names of the service that callers may use, without ports and separated by commas, besides loopback names
    and `host`; `*`: any. Unset: any name if callers need a key, no other name if not."""
    cors_origins: ListOf[Origin] = ()
    """Origins (`https://host[:port]`), separated by commas, whose web pages may call this service."""
    trusted_proxies: ListOf[Network] = ()
    """Addresses or networks of reverse proxies, separated by commas, whose `X-Forwarded-For` and `X-Forwarded-Proto`
    headers count; the headers of all other callers are ignored."""
    max_connections: int = Field(1024, ge=16, le=65536)
    """Largest number of connections, as far as the limit on open files allows; one address gets half."""
    header_timeout_s: float = Field(10.0, gt=0)
    """Time within which the headers of a request must arrive, in seconds."""
    body_timeout_s: float = Field(10.0, gt=0)
    """Longest wait for the next bytes of a request's body, in seconds; after it the answer is 408."""
    min_body_rate: int = Field(1024, ge=0)
    """Lowest rate of a request's body in bytes per second, averaged over the waiting time after the first
    `body_timeout_s`; 0: no limit."""
    send_timeout_s: float = Field(60.0, gt=0)
    """Time after which a client that reads nothing of its answer is disconnected, in seconds."""
    queue_images: int = Field(4096, ge=1)
    """Images that may wait for scoring, each counted once per draw; more are refused with 429. A caller may hold at
    most as much as stays free for others: half if it is alone, or a single request."""
    queue_requests: int = Field(128, ge=16, le=65536)
    """Requests that may wait for scoring to begin, those that cannot share a batch counted as 8; more are refused with
    429. A caller may hold at most as many as stay free for others: half if it is alone. Raise it for many clients with
    the same key; each of them then waits longer."""
    max_upload_bytes: int = Field(256 * 2**20, ge=1024)
    """Largest request body of the service, in bytes."""
    max_bytes_in_flight: int = Field(512 * 2**20, ge=1024)
    """Largest sum of the bodies of all open requests, in bytes; more are refused with 429. A caller may hold at most
    as much as stays free for others."""
    max_images_per_request: int = Field(1024, ge=1)
    """Largest number of images in a scoring request."""
    max_image_pixels: int = Field(100_000_000, ge=2**10)
    """Largest number of pixels of an image file, in every process; larger ones are refused. Decoding takes up to 16
    bytes of memory a pixel. Large images are decoded at the same time only while they have no more pixels than this
    together."""
    max_dataset_bytes: int = Field(20 * 2**30, ge=1024)
    """Largest upload of a dataset, in bytes; it is streamed to disk."""
    max_model_bytes: int = Field(4 * 2**30, ge=1024)
    """Largest upload of a model, in bytes; it is streamed to disk."""
    dataset_quota_bytes: int | None = Field(None, ge=0)
    """Largest size of all datasets under `home`, in bytes; unset: limited by the disk."""
    max_dataset_uploads: int = Field(8, ge=1, le=16)
    """Largest number of dataset uploads at once, of which one caller gets half; more are refused with 429."""
    ingest_memory_bytes: int = Field(1536 * 2**20, ge=512 * 2**20)
    """Largest memory of the process that reads an uploaded dataset, in bytes; an upload that needs more is refused.
    Linux only."""
    ingest_seconds: int = Field(60, ge=10, le=86_400)
    """Largest processor time of the process that reads an uploaded dataset, in seconds, plus 10 s for each MB of the
    upload. In real time it may take four times as long."""
    request_timeout_s: float = Field(30.0, gt=0)
    """Deadline of a request that does not set one, in seconds."""
    drift_martingale: float = Field(1000.0, gt=1, le=1e300)
    """Capital of the test of drift that raises an alarm, 1 at its start. Without drift it is ever reached by at most 1
    of this many streams of images. 1e300 turns the alarms off."""
    drift_sources: int = Field(64, ge=1, le=1024)
    """Largest number of sources of a model that are tested for drift each; the least recently used source is dropped
    first."""
    max_jobs: int = Field(10_000, ge=1)
    """Largest number of unfinished jobs: queued, running or paused; more are refused with 429."""
    max_jobs_per_caller: int = Field(1_000, ge=1)
    """The same for the jobs of one caller: a key, or an address without a key."""
    max_event_streams: int = Field(256, ge=1)
    """Largest number of open event streams of jobs, of which one caller gets half; more are refused with 429."""

    home: AbsolutePath = Path("var")
    """Folder of all state: models, jobs, datasets, broker data and logs."""
    data_dir: AbsolutePath | None = None
    """Folder with more dataset files to train on, such as mnist.npz."""
    redis_url: str | None = Field(None, repr=False, validation_alias=AliasChoices("SNF_REDIS_URL", "REDIS_URL"))
    """URL of the Redis or Valkey server to use; unset: `snf up` starts an embedded server under `home`."""
    redis_password_file: AbsolutePath | None = None
    """File with the password of the Redis server, which `redis_url` then leaves out."""
    key_prefix: str = Field("snf:", pattern=r"^[a-z0-9-]+:$")
    """Prefix of every key in Redis, so that several installations can share a server."""
    runtime_dir: AbsolutePath | None = None
    """Folder of the broker's socket; its path must be short. Unset: derived from `home`."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads of one scoring engine; unset: its share of the cores."""
    engine: EngineName = "auto"
    """Engine that runs the models: openvino (CPU) or torch; auto: OpenVINO if it supports all layers of a model."""
    backbones: AbsolutePath | None = None
    """Folder of the backbones of feature models; unset: `backbones` under `home`."""
    allowed_locations: ListOf[AllowedLocation] = ()
    """URLs of folders, separated by commas, such as s3://bucket/folder or file:///folder: callers may name them and
    what is below them, to read images and to write results. Unset: none."""
    ray_address: str | None = Field(None, pattern=r"^[^\s/]+:[0-9]{1,5}$")
    """Address of a Ray cluster, HOST:PORT, which scores datasets for jobs with an output, and for
    `snf bulk --engine ray`. Unset: jobs are scored by the workers."""
    scoring_device: str = Field("cpu", pattern=r"^(cpu|cuda:[0-9]{1,2})$")
    """Device that scores images: cpu or cuda:0, cuda:1, ..."""
    model_memory_bytes: int | None = Field(None, ge=1)
    """Memory of all loaded models of the service, in bytes; the least recently used are dropped first and loaded again
    when they are used. Unset: a quarter of the memory of the machine or container."""
    train_threads: int | None = Field(default_factory=lambda settings: settings.get("threads"), ge=1, le=1024)
    """CPU threads of one job; unset: `threads`, or else as for scoring. A training then uses fewer where its first
    steps are faster with them."""
    beside_service: bool = False
    """Whether the service runs on the machine of the workers: they then share half of its cores, as under `snf up`."""
    lease_seconds: float = Field(30.0, gt=0)
    """Time without a heartbeat after which a worker loses its job, in seconds."""
    heartbeat_seconds: float = Field(5.0, gt=0)
    """Time between two heartbeats of a worker, in seconds."""
    reconcile_seconds: float = Field(10.0, gt=0)
    """Time between two searches for jobs that lost their worker or their message, in seconds."""
    dispatch_seconds: float = Field(30.0, gt=0)
    """Half the time until an idle worker that messages do not reach reconnects, in seconds."""
    stop_grace_seconds: float = Field(20.0, gt=0)
    """Time that a job gets to write its checkpoint before it is killed, in seconds."""
    stall_seconds: float = Field(1800.0, gt=0)
    """Time without a sign of progress after which a job counts as hung and is killed, in seconds."""
    max_attempts_without_progress: int = Field(3, ge=1)
    """Attempts in a row that may end without a new checkpoint before a job fails, because its process died or its
    worker vanished."""
    devices: ListOf[Device] = Field(("auto",), min_length=1)
    """Devices of this machine that run jobs, separated by commas: cpu, cuda:0, ...; auto: every GPU and the CPU. Each
    device gets a worker process of its own and runs one job at a time."""
    queues: ListOf[Queue] = ()
    """Queues that this machine's workers serve, separated by commas: train-cpu, train-gpu, score. Unset: all queues
    that their devices can serve."""
    train_memory_bytes: int | None = Field(None, ge=256 * 2**20)
    """Largest memory of one training process, in bytes; a process that needs more fails as out of memory instead of
    using up the machine. Linux only."""
    nice: int = Field(10, ge=0, le=19)
    """Niceness of the processes of jobs, so that scoring stays responsive."""
    broker_timeout_s: float = Field(2.0, gt=0)
    """Longest wait for one answer of the job store, in seconds."""
    idempotency_hours: float = Field(24.0, gt=0)
    """Time for which an Idempotency-Key is remembered, in hours."""
    retention_days: float = Field(30.0, gt=0)
    """Time for which record and files of a finished job are kept, in days."""
    log_level: Annotated[str, BeforeValidator(lambda text: str(text).upper())] = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$"
    )
    """Least severe level of messages that are logged."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, reason in REMOVED.items():
            if os.environ.get(name):
                raise ValueError(f"{reason} and unset {name}")
        if self.max_bytes_in_flight < self.max_upload_bytes:
            raise ValueError(
                f"all open requests together must be allowed at least one of the largest bodies, got "
                f"{self.max_bytes_in_flight} bytes for all and {self.max_upload_bytes} bytes for one; raise "
                "SNF_MAX_BYTES_IN_FLIGHT"
            )
        if self.redis_password_file is not None and urlsplit(self.redis_url or "").password is not None:
            raise ValueError(
                "expected the password of Redis in the URL or in a file, got both; take it out of REDIS_URL or unset "
                "SNF_REDIS_PASSWORD_FILE"
            )
        if self.retention_days * 24 < self.idempotency_hours:
            raise ValueError(
                f"a job must be kept as long as its Idempotency-Key or longer, got {self.retention_days:g} days for "
                f"jobs and {self.idempotency_hours:g} hours for keys; raise SNF_RETENTION_DAYS"
            )
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"a lease must last at least two heartbeats, got a lease of {self.lease_seconds:g} s and a heartbeat "
                f"every {self.heartbeat_seconds:g} s; raise SNF_LEASE_SECONDS"
            )
        return self

    keys_file: ClassVar = _BelowHome("keys.json")  # hashes of API keys; if it exists, every caller has to send a key
    key_file: ClassVar = _BelowHome("api-key")  # with the plain text of the first API key
    jobs_dir: ClassVar = _BelowHome("jobs")
    run_records_dir: ClassVar = _BelowHome("run-records")
    registry_dir: ClassVar = _BelowHome("registry")
    datasets_dir: ClassVar = _BelowHome("datasets")
    uploads_dir: ClassVar = _BelowHome("uploads")  # incomplete ones, which the quota of datasets does not count
    drift_file: ClassVar = _BelowHome("drift", "windows.json")  # drift and its alarms, which outlive the service
    logs_dir: ClassVar = _BelowHome("logs")

    @property
    def needs_keys(self) -> bool:
        """Whether other machines can reach the service, and neither ``api_keys`` nor ``trusted_bind`` is set."""
        return not (is_loopback(self.host) or self.api_keys or self.trusted_bind)

    @property
    def has_keys(self) -> bool:
        """Whether callers must send a key: ``api_keys`` is set, or the file of stored keys exists."""
        return bool(self.api_keys) or self.keys_file.exists()

    @property
    def drain_seconds(self) -> int:
        """Seconds that open requests get to finish when the service stops: the request timeout plus 5."""
        return math.ceil(self.request_timeout_s) + 5

    @property
    def kill_after_seconds(self) -> float:
        """Seconds until a process that was asked to stop is killed."""
        return max(self.stop_grace_seconds, self.drain_seconds) + 10

    @property
    def backbones_dir(self) -> Path:
        """Path of the folder with the backbone networks of feature models."""
        return self.backbones or self.home / "backbones"

    @property
    def engine_options(self) -> EngineOptions:
        """Options of the library that scores images in the HTTP service."""
        return EngineOptions(
            self.engine,
            device=self.scoring_device,
            threads=self.threads,
            cache=self.home / "cache",
            backbones=self.backbones_dir,
        )

    @property
    def job_engine_options(self) -> EngineOptions:
        """Options for scoring in jobs: the options of the service, but with ``train_threads`` CPU threads."""
        return replace(self.engine_options, threads=self.train_threads)

    @property
    def runtime_folder(self) -> Path:
        """Folder of Unix sockets, of which a path has 103 bytes at most; by default it depends on ``home`` alone."""
        if self.runtime_dir is not None:
            return self.runtime_dir
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path("/tmp") / f"snf-{os.getuid()}-{digest}"  # noqa: S108  # the folder is private to its owner

    def environment(self) -> dict[str, str]:
        """Return these settings as environment variables for a child process, without API keys."""
        variables = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or name == "api_keys":
                continue
            if isinstance(value, tuple):
                value = ",".join(value)
            variables[f"SNF_{name.upper()}"] = str(int(value) if isinstance(value, bool) else value)
        # An inherited REDIS_URL must not win over an explicit value.
        variables["REDIS_URL"] = self.redis_url or ""
        return variables


def is_loopback(host: str) -> bool:
    """Return True if ``host`` is ``localhost`` or a loopback IP address, which only this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings() -> Settings:
    """Return the settings of this process's environment; raise ``pydantic.ValidationError``."""
    return Settings()


def address(settings: Settings) -> str:
    """Return the URL of the HTTP service for programs on this machine, such as ``http://127.0.0.1:8000``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
